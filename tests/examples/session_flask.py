"""A login on one worker is known on all: Flask and Flask-Session.

pip install flask flask-session
sdcluster run session_flask:app --workers 4

curl -c jar -d user=ada http://127.0.0.1:8000/login
curl -b jar http://127.0.0.1:8000/me
curl -b jar -c jar -X POST http://127.0.0.1:8000/logout
"""

import os
from typing import Any

from flask import Flask, request, session
from flask_session import Session

from sdcluster.cache.cachelib import SharedCache

app = Flask(__name__)
app.config["SESSION_TYPE"] = "cachelib"
app.config["SESSION_CACHELIB"] = SharedCache()
Session(app)


def answer() -> dict[str, Any]:
    return {"user": session.get("user"), "worker": os.getpid()}


@app.post("/login")
def login() -> dict[str, Any]:
    session["user"] = request.form["user"]
    return answer()


@app.get("/me")
def me() -> dict[str, Any]:
    return answer()


@app.post("/logout")
def logout() -> dict[str, Any]:
    session.clear()
    return answer()
