"""Products of matrices."""

from string import ascii_uppercase

from training.autodiff.builder import Builder
from training.autodiff.registry import Context, rule

MATRIX = 2  # axes


@rule("MatMul")
def _matmul(ctx: Context) -> dict[int, str]:
    """Gradients of a·b: g·bᵀ and aᵀ·g, each summed over the leading axes that were broadcast."""
    graph = ctx.graph
    a, b = ctx.node.input
    if min(len(graph.shape(a)), len(graph.shape(b))) < MATRIX:
        raise ctx.unsupported("one of its inputs is a vector; write it as a matrix")
    gradients = {}
    if ctx.needs_gradient[0]:
        product = graph.node("MatMul", ctx.gradient, _transposed(graph, b))
        gradients[0] = _unbroadcast(graph, product, a, ctx.y)
    if ctx.needs_gradient[1]:
        product = graph.node("MatMul", _transposed(graph, a), ctx.gradient)
        gradients[1] = _unbroadcast(graph, product, b, ctx.y)
    return gradients


def _transposed(graph: Builder, name: str) -> str:
    rank = len(graph.shape(name))
    return graph.node("Transpose", name, perm=[*range(rank - 2), rank - 1, rank - 2])


def _unbroadcast(graph: Builder, product: str, name: str, output: str) -> str:
    """`product` summed over the leading axes along which `name` was broadcast.

    Not `Builder.unbroadcast`: the last two axes of `output` are not those of `name`.
    """
    small, large = graph.shape(name), graph.shape(output)
    lead = len(large) - len(small)
    axes = [
        axis
        for axis in range(len(large) - MATRIX)
        if axis < lead or (small[axis - lead] == 1 and large[axis] != 1)
    ]
    return graph.like(graph.sum(product, axes), name) if axes else product


@rule("Gemm")
def _gemm(ctx: Context) -> dict[int, str]:
    """Gradients of α·a·b + β·c: α·g·bᵀ, α·aᵀ·g, and β·g summed down to the shape of c.

    Where transA or transB is set, the gradient is that of the matrix before it is transposed.
    """
    graph, g = ctx.graph, ctx.gradient
    a, b = ctx.node.input[:2]
    trans_a, trans_b = ctx.attribute("transA", 0), ctx.attribute("transB", 0)
    alpha, gradients = ctx.attribute("alpha", 1.0), {}
    if ctx.needs_gradient[0]:
        factors, flags = ((b, g), (trans_b, 1)) if trans_a else ((g, b), (0, 1 - trans_b))
        gradients[0] = graph.node("Gemm", *factors, transA=flags[0], transB=flags[1], alpha=alpha)
    if ctx.needs_gradient[1]:
        factors, flags = ((g, a), (1, trans_a)) if trans_b else ((a, g), (1 - trans_a, 0))
        gradients[1] = graph.node("Gemm", *factors, transA=flags[0], transB=flags[1], alpha=alpha)
    if any(ctx.needs_gradient[2:]):
        scaled = graph.node("Mul", g, ctx.attribute("beta", 1.0))
        gradients[2] = graph.unbroadcast(scaled, ctx.node.input[2], ctx.y)
    return gradients


@rule("Einsum")
def _einsum(ctx: Context) -> dict[int, str]:
    """Gradient of a sum of products: the same sum with g in the place of the input.

    The subscripts of the output and of the input change places.
    """
    terms, output = _subscripts(ctx)
    if any(len(set(term)) < len(term) for term in terms):
        raise ctx.unsupported(f"{ctx.attribute('equation')} repeats a subscript in a term")
    gradients = {}
    for index, term in enumerate(terms):
        if ctx.needs_gradient[index]:
            gradients[index] = _einsum_back(ctx, terms, output, index, term)
    return gradients


def _subscripts(ctx: Context) -> tuple[list[str], str]:
    """The subscripts of each input and of the output, all of them written out.

    An ellipsis stands for as many leading axes as are left; these become capital letters.
    """
    inputs, arrow, output = ctx.attribute("equation").replace(" ", "").partition("->")
    terms = inputs.split(",")
    letters = "".join(terms).replace(".", "")
    if not arrow:  # the output has the subscripts that occur once, in order
        output = "..." * ("..." in inputs)
        output += "".join(sorted(letter for letter in letters if letters.count(letter) == 1))
    spare = [letter for letter in ascii_uppercase if letter not in letters]
    ranks = [len(ctx.graph.shape(name)) for name in ctx.node.input]
    counts = [rank - len(term.replace("...", "")) for rank, term in zip(ranks, terms, strict=True)]
    leading = {count for count, term in zip(counts, terms, strict=True) if "..." in term}
    if len(leading) > 1:
        raise ctx.unsupported(f"{ctx.attribute('equation')} broadcasts axes of an ellipsis")
    axes = "".join(spare[: max(leading, default=0)])
    return [term.replace("...", axes) for term in terms], output.replace("...", axes)


def _einsum_back(ctx: Context, terms: list[str], output: str, index: int, term: str) -> str:
    others = [other for number, other in enumerate(terms) if number != index]
    names = [name for number, name in enumerate(ctx.node.input) if number != index]
    if not set(term) <= set(output).union(*others):
        raise ctx.unsupported(f"it sums {term} over a subscript that no other term has")
    equation = f"{','.join([output, *others])}->{term}"
    return ctx.graph.node("Einsum", ctx.gradient, *names, equation=equation)
