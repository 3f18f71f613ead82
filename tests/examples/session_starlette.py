"""A login on one worker is known on all: Starlette, with a session in the shared cache.

pip install starlette
sdcluster run session_starlette:app --workers 4

curl -c jar -X POST 'http://127.0.0.1:8000/login?user=ada'
curl -b jar http://127.0.0.1:8000/me
curl -b jar -X POST http://127.0.0.1:8000/logout
"""

import os
import secrets

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from sdcluster import cache

COOKIE = "session"
LIFETIME_S = 14 * 86400


def key(request: Request) -> str:
    return f"session:{request.cookies.get(COOKIE, '')}"


async def login(request: Request) -> JSONResponse:
    session_id = secrets.token_urlsafe()  # A new one at each login: nobody can have planted it.
    session = {"user": request.query_params["user"]}
    await cache.aset(f"session:{session_id}", session, ttl=LIFETIME_S)
    answer = JSONResponse({**session, "worker": os.getpid()})
    answer.set_cookie(COOKIE, session_id, max_age=LIFETIME_S, httponly=True, samesite="lax")
    return answer


async def me(request: Request) -> JSONResponse:
    session = await cache.aget(key(request), {"user": None})
    return JSONResponse({**session, "worker": os.getpid()})


async def logout(request: Request) -> JSONResponse:
    await cache.adelete(key(request))
    answer = JSONResponse({"user": None, "worker": os.getpid()})
    answer.delete_cookie(COOKIE)
    return answer


app = Starlette(
    routes=[
        Route("/login", login, methods=["POST"]),
        Route("/me", me),
        Route("/logout", logout, methods=["POST"]),
    ]
)
