"""What is refused of the parameters, and what is only ignored."""

import pytest

from service.api import parameters
from service.errors import InvalidParameter


def of_predict(embedded, **given):
    return parameters.of_predict(embedded.manifest, given)


def of_explain(embedded, **given):
    return parameters.of_explain(embedded.manifest, given)


@pytest.mark.parametrize("name", ["_", "utm_source", "api_key", "csrf_token"])
def test_an_unknown_name_is_ignored_with_a_warning(name, embedded):
    options = of_predict(embedded, **{name: "1"})
    assert options.warnings == (f"the parameter {name!r} is not known here and was ignored",)


@pytest.mark.parametrize(
    ("given", "meant"), [("topk", "top_k"), ("Coverage", "coverage"), ("explian", "explain")]
)
def test_a_misspelt_name_is_refused_with_the_right_one(given, meant, embedded):
    with pytest.raises(InvalidParameter, match=f"did you mean {meant}"):
        of_predict(embedded, **{given: "1"})


def test_so_is_one_of_an_explanation(embedded):
    with pytest.raises(InvalidParameter, match="did you mean segments"):
        of_explain(embedded, method="lime", segment=4)


def test_many_unknown_names_are_counted(embedded):
    options = of_predict(embedded, **{f"x{number}": 1 for number in range(12)})
    assert len(options.warnings) == 6
    assert options.warnings[-1] == "7 more were ignored, too"


def test_values_of_nothing_stand_for_the_default(embedded):
    options = of_predict(embedded, top_k="", coverage=None, explain="")
    assert options == of_predict(embedded)


def test_a_default_passes_where_it_has_no_meaning_and_another_value_does_not(embedded):
    usual = {"steps": "128", "map": "both", "legend": False, "quality": "basic"}
    assert of_predict(embedded, **usual) == of_predict(embedded)
    with pytest.raises(InvalidParameter, match="steps has no meaning here"):
        of_predict(embedded, steps=33)
    assert of_explain(embedded, steps=128).question.parameters == {"layer": "last"}
    with pytest.raises(InvalidParameter, match="grad_cam has no parameter 'steps'"):
        of_explain(embedded, steps=33)


@pytest.mark.parametrize("value", [2, "2", 2.0])
def test_a_whole_number_may_have_a_point(value, embedded):
    assert of_predict(embedded, top_k=value).prediction.top_k == 2


def of_infer(embedded, **given):
    return parameters.of_infer(embedded.manifest, given, explained=False, sets=False)


def test_an_inference_by_tensors_is_as_forgiving(embedded):
    assert "'priority'" in of_infer(embedded, priority=1).warnings[0]
    with pytest.raises(InvalidParameter, match="did you mean deadline_ms"):
        of_infer(embedded, deadline=1)


@pytest.mark.parametrize(
    ("microseconds", "milliseconds"),
    [(5_000_000, 5_000), ("2500", 2), (1, 1), (10**12, 60_000), (0, 10_000)],
)
def test_the_timeout_of_triton_is_a_deadline(microseconds, milliseconds, embedded):
    assert of_infer(embedded, timeout=microseconds).deadline_ms == milliseconds
