"""The shop with Django: its WSGI handler in threads, persistent connections, a transaction for each request.

Requests go into the handler as a web server would hand them over, without a socket. The driver is mysqlclient.
"""

from __future__ import annotations

import json
import random
import sys
import time
from typing import Any

import django
from django.conf import settings

from tests.clients.pools.work import Tally, carry_out

PLAN: dict[str, Any] = json.loads(sys.argv[1])
settings.configure(
    ALLOWED_HOSTS=["*"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.mysql",
            "HOST": "127.0.0.1",
            "PORT": PLAN["port"],
            "USER": PLAN["user"],
            "PASSWORD": PLAN["password"],
            "NAME": "test",
            "ATOMIC_REQUESTS": True,
            "CONN_MAX_AGE": 90,
            "CONN_HEALTH_CHECKS": True,
        }
    },
    DEBUG_PROPAGATE_EXCEPTIONS=True,
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    ROOT_URLCONF=sys.modules[__name__],
    SECRET_KEY="none",
    USE_TZ=False,
)
django.setup()

from django.core.handlers.wsgi import WSGIHandler  # noqa: E402  # all of these need the settings
from django.db import connections, models, transaction  # noqa: E402
from django.db.backends.signals import connection_created  # noqa: E402
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse  # noqa: E402
from django.test import RequestFactory  # noqa: E402
from django.urls import path  # noqa: E402


class Product(models.Model):
    name = models.CharField(max_length=100)
    price = models.IntegerField()
    stock = models.IntegerField()

    class Meta:
        app_label = "shop"
        db_table = "shop_product"


class Customer(models.Model):
    name = models.CharField(max_length=100)
    points = models.IntegerField()

    class Meta:
        app_label = "shop"
        db_table = "shop_customer"


class Order(models.Model):
    customer = models.ForeignKey(Customer, models.DO_NOTHING)
    product = models.ForeignKey(Product, models.DO_NOTHING)
    amount = models.IntegerField()
    note = models.CharField(max_length=400)

    class Meta:
        app_label = "shop"
        db_table = "shop_order"


# --- views ---


def page(request: HttpRequest) -> HttpResponse:
    customer = Customer.objects.get(pk=random.randint(1, 1000))
    recent = Order.objects.filter(customer=customer).select_related("product").order_by("-id")[:10]
    return JsonResponse({"name": customer.name, "products": [order.product.name for order in recent]})


@transaction.non_atomic_requests
def short(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"name": Product.objects.values_list("name").get(pk=7)})


def order(request: HttpRequest) -> HttpResponse:
    customer = Customer.objects.select_for_update().get(pk=random.randint(1, 1000))
    product, amount = random.randint(1, 200), random.randint(1, 3)
    placed = Order.objects.create(customer=customer, product_id=product, amount=amount, note="from a view")
    time.sleep(0.002)
    with transaction.atomic():  # a savepoint
        Product.objects.filter(pk=product).update(stock=models.F("stock") - amount)
    Customer.objects.filter(pk=customer.pk).update(points=models.F("points") + amount)
    if random.random() < 0.05:
        transaction.set_rollback(True)
    return JsonResponse({"id": placed.pk})


def report(request: HttpRequest) -> HttpResponse:
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT COUNT(*), SUM(amount), SLEEP(%s) FROM shop_order", [random.uniform(1.0, 1.8)])
        return JsonResponse({"row": [int(value) for value in cursor.fetchone()]})


def export(request: HttpRequest) -> StreamingHttpResponse:
    rows = Order.objects.values_list("id", "note").order_by("id")[:5000]
    return StreamingHttpResponse(f"{ident},{note}\n" for ident, note in rows.iterator(chunk_size=500))


urlpatterns = [path(f"{view.__name__}/", view) for view in (page, short, order, report, export)]


# --- the server ---


class Site:
    """Hands requests to Django, and reads its responses to their ends."""

    def __init__(self) -> None:
        self._handler = WSGIHandler()
        self._factory = RequestFactory()

    def get(self, name: str) -> None:
        started: list[str] = []
        response = self._handler(self._factory.get(f"/{name}/").environ, lambda status, *_: started.append(status))
        try:
            for _ in response:
                pass
        finally:
            response.close()
        assert started == ["200 OK"], (name, started)


def main() -> None:
    tally = Tally()

    def counted(execute: Any, *arguments: Any) -> Any:
        tally.count("statements")
        return execute(*arguments)

    def count_on(connection: Any, **_: object) -> None:
        if counted not in connection.execute_wrappers:  # the object stays when its connection is opened again
            connection.execute_wrappers.append(counted)

    connection_created.connect(count_on)
    site = Site()
    shares = {"page": 70.0, "order": 29.0, "report": 0.5, "export": 0.5}
    requests = [(share, lambda name=name: site.get(name)) for name, share in shares.items()]
    carry_out(PLAN, tally, requests, lambda: site.get("short"), lambda: None)


if __name__ == "__main__":
    main()
