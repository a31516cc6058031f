"""Products of matrices."""

from training.autodiff.graph import Call, Graph, rule


@rule("MatMul")
def _matmul(call: Call) -> dict[int, str]:
    """A·B: g·Bᵀ and Aᵀ·g, summed over broadcast leading axes."""
    graph = call.graph
    a, b = call.node.input
    if min(len(graph.shape(a)), len(graph.shape(b))) < 2:  # noqa: PLR2004
        raise call.unsupported("one of its inputs is a vector; write it as a matrix")
    gradients = {}
    if call.wanted[0]:
        gradients[0] = _summed(
            graph, graph.node("MatMul", call.gradient, _turned(graph, b)), a, call.y
        )
    if call.wanted[1]:
        gradients[1] = _summed(
            graph, graph.node("MatMul", _turned(graph, a), call.gradient), b, call.y
        )
    return gradients


def _turned(graph: Graph, name: str) -> str:
    rank = len(graph.shape(name))
    return graph.node("Transpose", name, perm=[*range(rank - 2), rank - 1, rank - 2])


def _summed(graph: Graph, product: str, name: str, output: str) -> str:
    """`product` summed over the leading axes along which `name` was broadcast."""
    small, large = graph.shape(name), graph.shape(output)
    lead = len(large) - len(small)
    axes = [
        axis
        for axis in range(len(large) - 2)
        if axis < lead or (small[axis - lead] == 1 and large[axis] != 1)
    ]
    if not axes:
        return product
    return graph.like(graph.sum(product, axes), name)


@rule("Gemm")
def _gemm(call: Call) -> dict[int, str]:
    """alpha·A·B + beta·C, each of A and B transposed or not."""
    graph, gradient = call.graph, call.gradient
    a, b = call.node.input[:2]
    turned_a, turned_b = call.attribute("transA", 0), call.attribute("transB", 0)
    alpha, gradients = call.attribute("alpha", 1.0), {}
    if call.wanted[0]:
        pair = (b, gradient, turned_b, 1) if turned_a else (gradient, b, 0, 1 - turned_b)
        gradients[0] = graph.node("Gemm", *pair[:2], transA=pair[2], transB=pair[3], alpha=alpha)
    if call.wanted[1]:
        pair = (gradient, a, 1, turned_a) if turned_b else (a, gradient, 1 - turned_a, 0)
        gradients[1] = graph.node("Gemm", *pair[:2], transA=pair[2], transB=pair[3], alpha=alpha)
    if len(call.wanted) > 2 and call.wanted[2]:  # noqa: PLR2004
        scaled = graph.node("Mul", gradient, graph.constant(call.attribute("beta", 1.0)))
        gradients[2] = graph.unbroadcast(scaled, call.node.input[2], call.y)
    return gradients


@rule("Einsum")
def _einsum(call: Call) -> dict[int, str]:
    """The same product with g in the place of the input and the input's subscripts as the answer's."""
    equation = call.attribute("equation").replace(" ", "")
    inputs, _, output = equation.partition("->")
    terms = inputs.split(",")
    if not output or "." in equation or any(len(set(term)) < len(term) for term in terms):
        raise call.unsupported(
            f"{equation} repeats a subscript in a term, leaves the answer's out or has an ellipsis"
        )
    gradients = {}
    for index, term in enumerate(terms):
        if call.wanted[index]:
            others = [
                (t, name)
                for i, (t, name) in enumerate(zip(terms, call.node.input, strict=True))
                if i != index
            ]
            if not set(term) <= set(output).union(*(t for t, _ in others)):
                raise call.unsupported(
                    f"{equation} sums one input over a subscript that no other has"
                )
            back = f"{','.join([output, *(t for t, _ in others)])}->{term}"
            gradients[index] = call.graph.node(
                "Einsum", call.gradient, *(name for _, name in others), equation=back
            )
    return gradients
