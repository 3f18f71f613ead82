"""A FastAPI app as people write them: its import is what a fork saves."""

import asyncio

from fastapi import FastAPI, HTTPException
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, Field
from work import WAIT_S, body, burn

app = FastAPI(title="bench")


class Item(BaseModel):
    """Something to validate."""

    name: str = Field(min_length=1, max_length=80)
    price: float = Field(gt=0)
    tags: list[str] = []


ITEMS = {number: Item(name=f"item {number}", price=number + 1) for number in range(1000)}


@app.get("/", response_class=PlainTextResponse)
async def hello() -> bytes:
    """Answer with the worker's pid."""
    return body()


@app.get("/wait", response_class=PlainTextResponse)
async def wait() -> bytes:
    """Answer after a while."""
    await asyncio.sleep(WAIT_S)
    return body()


@app.get("/cpu", response_class=PlainTextResponse)
async def cpu() -> bytes:
    """Answer after some work."""
    burn()
    return body()


@app.get("/items/{number}")
async def get_item(number: int) -> Item:
    """Return an item."""
    if number not in ITEMS:
        raise HTTPException(404)
    return ITEMS[number]


@app.put("/items/{number}")
async def put_item(number: int, item: Item) -> Item:
    """Store an item."""
    ITEMS[number] = item
    return item
