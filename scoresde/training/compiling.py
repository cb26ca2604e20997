"""Failures of `torch.compile`, after which a network still runs as it is."""

__all__ = ["first_line", "is_of_compiler"]

_MODULES = ("torch._dynamo", "torch._inductor", "torch._functorch", "torch.fx", "triton")


def is_of_compiler(error: BaseException) -> bool:
    """True if an error, or one that led to it, was raised by the compiler and not by what is compiled."""
    chain: BaseException | None = error
    while chain is not None:
        if type(chain).__module__.startswith(_MODULES):
            return True
        chain = chain.__cause__ or chain.__context__
    return False


def first_line(error: BaseException) -> str:
    """The first line of an error's message that is not the head of another, at most 150 characters of it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.strip().endswith(":")]
    return (lines[0] if lines else type(error).__name__)[:150]
