"""A login on one worker is known on all: Django's own users, with their sessions in the cache.

pip install django
sdcluster run session_django:app --workers 4

curl -c jar -d 'user=ada&password=lovelace' http://127.0.0.1:8000/login
curl -b jar http://127.0.0.1:8000/me
curl -b jar -c jar -X POST http://127.0.0.1:8000/logout
"""

import os
import secrets

import django
from django.conf import settings
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

settings.configure(
    SECRET_KEY=os.environ.get("SECRET_KEY") or secrets.token_hex(),
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes"],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "users.sqlite"}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    CACHES={"default": {"BACKEND": "sdcluster.cache.django.SharedCache"}},
    SESSION_ENGINE="django.contrib.sessions.backends.cache",
)
django.setup()

from django.contrib import auth  # noqa: E402  # These want Django to be set up.
from django.contrib.auth.models import User  # noqa: E402
from django.db import connections  # noqa: E402


def login(request: HttpRequest) -> JsonResponse:
    user = auth.authenticate(
        request, username=request.POST["user"], password=request.POST["password"]
    )
    if user is None:
        return JsonResponse({"user": None, "worker": os.getpid()}, status=403)
    auth.login(request, user)
    return me(request)


def me(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"user": request.user.get_username() or None, "worker": os.getpid()})


def logout(request: HttpRequest) -> JsonResponse:
    auth.logout(request)
    return me(request)


urlpatterns = [path("login", login), path("me", me), path("logout", logout)]

call_command("migrate", verbosity=0)
if not User.objects.filter(username="ada").exists():
    User.objects.create_user("ada", password="lovelace")
connections.close_all()  # Each worker opens its own.

app = get_wsgi_application()
