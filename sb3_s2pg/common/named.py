"""Classes that a user may give by name."""

from typing import TypeVar

T = TypeVar("T")


def resolve_class(argument: str, choice: str | type[T], known: dict[str, type[T]], base: type[T], what: str) -> type[T]:
    """
    :param argument: Name of the argument, for the message
    :param choice: Name of a class of this package, or a class derived from ``base``
    :param known: The classes that have a name
    :param base: Base class
    :param what: What it is, for the message
    :return: The class
    :raises ValueError: if there is no such class
    """
    if isinstance(choice, str) and choice in known:
        return known[choice]
    if isinstance(choice, type) and issubclass(choice, base) and choice is not base:
        return choice
    raise ValueError(f"{argument}={choice!r} is not {what}: use one of {sorted(known)} or a subclass of {base.__name__}")
