"""Names shown as they are: matplotlib takes what stands between two dollar signs for mathematics."""

__all__ = ["literal"]


def literal(text: str) -> str:
    r"""Give a text that matplotlib shows as it is.

    Args:
        text: Such as the label of a method. What cannot be printed becomes a question mark.

    Example:
        >>> print(literal("$x^{"))
        \$x^{
    """
    return "".join(c if c.isprintable() else "\ufffd" for c in text).replace("$", r"\$")
