"""The operations of both clients: written once, and typed for each."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, Generic, Never, ParamSpec, TypeVar, get_args, overload

from service.client import calls
from service.client.calls import Call

P = ParamSpec("P")
T = TypeVar("T")


class Sync(ABC):
    """A client that waits."""

    @abstractmethod
    def send(self, call: Call[T]) -> T:
        """Carry out a call."""


class Async(ABC):
    """A client that is awaited."""

    @abstractmethod
    async def send(self, call: Call[T]) -> T:
        """Carry out a call."""


class Operation(Generic[P, T]):
    """A method whose arguments and documentation are those of a function that describes a call.

    Of a client that waits it gives what the call answers, of one that is awaited a coroutine.

    Args:
        describe: Makes the call out of the arguments.
    """

    def __init__(self, describe: Callable[P, Call[T]]) -> None:
        self._describe = describe
        self.__name__ = describe.__name__
        self.__doc__ = describe.__doc__
        signature = inspect.signature(describe)
        (answer,) = get_args(signature.return_annotation)
        self.__signature__ = signature.replace(return_annotation=answer)

    @overload
    def __get__(self, client: None, owner: type) -> "Operation[P, T]": ...

    @overload
    def __get__(self, client: Sync, owner: type) -> Callable[P, T]: ...

    # Any in place of object and Never would make type checkers lose T in asyncio.gather.
    @overload
    def __get__(self, client: Async, owner: type) -> Callable[P, Coroutine[object, Never, T]]: ...

    def __get__(self, client: Sync | Async | None, owner: type) -> Any:
        """Bind to a client."""
        if client is None:
            return self
        send, describe = client.send, self._describe

        def operation(*args: P.args, **kwargs: P.kwargs) -> Any:
            return send(describe(*args, **kwargs))

        operation.__name__ = operation.__qualname__ = self.__name__
        operation.__doc__ = self.__doc__
        operation.__dict__["__signature__"] = self.__signature__
        return operation


class Operations:
    """Everything that the service can be asked; ``service.client.calls`` describes it."""

    rank = Operation(calls.rank)
    rank_batch = Operation(calls.rank_batch)
    score = Operation(calls.score)
    order = Operation(calls.order)
    orders = Operation(calls.orders)
    sequence = Operation(calls.sequence)
    upsert = Operation(calls.upsert)
    delete = Operation(calls.delete)
    delete_document = Operation(calls.delete_document)
    chunk = Operation(calls.chunk)
    documents = Operation(calls.documents)
    document = Operation(calls.document)
    stats = Operation(calls.stats)
    model = Operation(calls.model)
    models = Operation(calls.models)
    reload = Operation(calls.reload)
    ready = Operation(calls.ready)
    live = Operation(calls.live)
