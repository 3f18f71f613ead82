"""Sessions in the memory of a process: each user stays with the worker that has his.

The app knows nothing of workers; its file, sticky_flask.toml, says sticky = "cookie".

pip install flask
sdcluster run --config sticky_flask.toml

curl -c jar -b jar -d user=ada http://127.0.0.1:8000/login
curl -c jar -b jar http://127.0.0.1:8000/me
"""

import os
import secrets
from typing import Any

from flask import Flask, Response, jsonify, request

app = Flask(__name__)
sessions: dict[str, dict[str, Any]] = {}


@app.post("/login")
def login() -> Response:
    key = secrets.token_urlsafe()
    sessions[key] = {"user": request.form["user"], "visits": 0}
    response = jsonify(worker=os.getpid())
    response.set_cookie("session", key, httponly=True, samesite="Lax")
    return response


@app.get("/me")
def me() -> tuple[dict[str, Any], int]:
    session = sessions.get(request.cookies.get("session", ""))
    if session is None:
        return {"error": "log in first", "worker": os.getpid()}, 401
    session["visits"] += 1
    return {**session, "worker": os.getpid()}, 200
