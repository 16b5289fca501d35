#!/usr/bin/env bash
# Django: with ATOMIC_REQUESTS, what a django-ninja or Strawberry view has written before its error is committed.
#
# Guess: ATOMIC_REQUESTS makes each request a transaction, so a view that raises leaves nothing, whatever framework makes
#     an answer of the error; Django REST framework's does.
# Truth: Django rolls back for an exception that comes out of the view. django-ninja makes a 4xx of HttpError, and of each
#     error that has a handler, inside of the view, and Strawberry makes a 200 with "errors": both commit what was written
#     before. REST framework marks the transaction for rollback when it does the same. An error that nobody has a handler
#     for is rolled back by ninja where DEBUG is off, and committed where it is on.
# Versions: Django 5.2.19, django-ninja 1.7.1, strawberry-graphql 0.341.2, djangorestframework 3.18.3, on SQLite.
# Source: issue 1704 of django-ninja (open); rest_framework/views.py, set_rollback(), which has no counterpart in the other
#     two.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check Django==5.2.19 django-ninja==1.7.1 strawberry-graphql==0.341.2 \
    djangorestframework==3.18.3

venv/bin/python - <<'PY'
import importlib.metadata
import json
import logging

import django
from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["testserver"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "data.db", "ATOMIC_REQUESTS": True}},
    INSTALLED_APPS=["rest_framework"],
    REST_FRAMEWORK={
        "DEFAULT_AUTHENTICATION_CLASSES": [],
        "DEFAULT_PERMISSION_CLASSES": [],
        "UNAUTHENTICATED_USER": None,
    },
    ROOT_URLCONF=__name__,
    SECRET_KEY="none",
)
django.setup()
logging.disable()

import ninja
import ninja.errors
import strawberry
from django.db import connection, models
from django.test import Client
from django.test.utils import override_settings
from django.urls import path
from rest_framework.decorators import api_view
from rest_framework.exceptions import ValidationError
from strawberry.django.views import GraphQLView

packages = ("django", "django-ninja", "strawberry-graphql", "djangorestframework")
print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages))


class Transfer(models.Model):
    way = models.TextField()

    class Meta:
        app_label = "bank"


with connection.schema_editor() as editor:
    editor.create_model(Transfer)


def transfer(way, error):
    """Half of a transfer, and then what stops it."""
    Transfer.objects.create(way=way)
    raise error


class NoCover(Exception):
    pass


api = ninja.NinjaAPI()
api.add_exception_handler(NoCover, lambda request, error: api.create_response(request, {"detail": "no cover"}, status=409))
api.post("/http_error")(lambda request: transfer("ninja, HttpError", ninja.errors.HttpError(400, "no cover")))
api.post("/handler")(lambda request: transfer("ninja, an error with a handler", NoCover()))
api.post("/other")(lambda request: transfer("ninja, another error", ValueError()))
api.post("/debug")(lambda request: transfer("ninja, another error, DEBUG", ValueError()))


@strawberry.type
class Query:
    nothing: int = 0


@strawberry.type
class Mutation:
    @strawberry.mutation
    def transfer(self) -> int:
        transfer("Strawberry", NoCover())


@api_view(["POST"])
def rest(request):
    transfer("REST framework", ValidationError("no cover"))


urlpatterns = [
    path("graphql", GraphQLView.as_view(schema=strawberry.Schema(Query, Mutation))),
    path("ninja/", api.urls),
    path("rest", rest),
]
client = Client(raise_request_exception=False)


def post(url, body=None):
    return client.post(url, json.dumps(body or {}), content_type="application/json").status_code


statuses = [
    post("/ninja/http_error"),
    post("/ninja/handler"),
    post("/ninja/other"),
    post("/graphql", {"query": "mutation { transfer }"}),
    post("/rest"),
]
with override_settings(DEBUG=True):
    statuses.append(post("/ninja/debug"))
kept = list(Transfer.objects.order_by("pk").values_list("way", flat=True))
print(f"answers: {statuses}")
print("what was written before the error is committed of:", *kept, sep="\n    ")
if statuses != [400, 409, 500, 200, 400, 500] or kept != [
    "ninja, HttpError",
    "ninja, an error with a handler",
    "Strawberry",
    "ninja, another error, DEBUG",
]:
    raise SystemExit("it is no longer so")
PY
