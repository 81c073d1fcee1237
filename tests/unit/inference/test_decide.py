import numpy as np
import pytest
from pydantic import ValidationError
from scipy.special import expit

from leuk_ray.bundles.manifest import ModelManifest
from leuk_ray.evaluation.conformal import ClassLimit, Conformal
from leuk_ray.inference import decide as deciding
from leuk_ray.inference.decide import Decision
from tests.support.serving_bundles import plain_manifest as manifest


def decide(probabilities, reasons, bundle: ModelManifest, in_set=None) -> Decision:
    return deciding.decide(probabilities, reasons, bundle.rules, bundle.classes, in_set)


def both(probability: float) -> np.ndarray:
    return np.array([1 - probability, probability])


@pytest.mark.parametrize(("probability", "label"), [(0.0, "healthy"), (0.49, "healthy"),
                                                    (0.5, "ALL"), (1.0, "ALL")])  # fmt: skip
def test_without_a_band_every_cell_in_scope_is_answered(probability: float, label: str):
    assert decide(both(probability), [], manifest()) == Decision(label, ())


@pytest.mark.parametrize(("probability", "label"), [(0.3, "healthy"), (0.31, "abstain"),
                                                    (0.69, "abstain"), (0.7, "ALL")])  # fmt: skip
def test_inside_the_band_there_is_no_answer(probability: float, label: str):
    decision = decide(both(probability), [], manifest(threshold=0.6, abstain_band=(0.3, 0.7)))
    assert decision.label == label
    assert decision.reasons == (("near_threshold",) if label == "abstain" else ())


def test_what_is_out_of_scope_is_not_answered_however_sure_the_network():
    decision = decide(both(0.999), ["blurred"], manifest(abstain_band=(0.4, 0.6)))
    assert decision == Decision("abstain", ("blurred",))
    near = decide(both(0.5), ["blurred"], manifest(abstain_band=(0.4, 0.6)))
    assert near.reasons == ("blurred", "near_threshold")


@pytest.mark.parametrize("band", [(0.6, 0.7), (0.2, 0.4), (-0.1, 0.6), (0.5, 1.1), (0.7, 0.3)])
def test_a_band_that_does_not_hold_the_threshold_is_refused(band):
    with pytest.raises(ValidationError, match="hold the threshold"):
        manifest(abstain_band=band)


@pytest.mark.parametrize("probability", [float("nan"), float("inf")])
def test_what_is_no_number_is_no_answer(probability: float):
    for reasons in ([], ["blurred"]):
        with pytest.raises(RuntimeError, match="not finite"):
            decide(both(probability), reasons, manifest())


def test_of_three_classes_the_most_likely_is_the_answer_where_it_is_likely_enough():
    three = manifest(classes=("a", "b", "c"), positive=("b", "c"), min_confidence=0.5)
    assert decide(np.array([0.4, 0.5, 0.1]), [], three) == Decision("b", ())
    unsure = decide(np.array([0.49, 0.2, 0.31]), ["blurred"], three)
    assert unsure == Decision("abstain", ("blurred", "low_confidence"))
    # The threshold is of the binary view, and decides nothing here.
    assert decide(np.array([0.6, 0.3, 0.1]), [], manifest(
        classes=("a", "b", "c"), positive=("b", "c"), threshold=0.1)).label == "a"  # fmt: skip
    with pytest.raises(RuntimeError, match="not finite"):
        decide(np.array([0.9, np.nan, 0.1]), [], three)


def sets_of(*limits: float) -> Conformal:
    """Prediction sets with these limits on the log-odds of the classes."""
    own = [
        ClassLimit(patients=9, cells=9, log_odds=limit, pooled=limit, attainable=0.9, share=0.9)
        for limit in limits
    ]
    return Conformal(coverage=0.9, limits=tuple(own))


@pytest.mark.parametrize(
    ("logit", "label", "prediction_set"),
    [
        (-2.0, "healthy", ("healthy",)),
        (0.5, "abstain", ("healthy", "ALL")),
        (1.5, "ALL", ("ALL",)),
        (0.5, "abstain", ()),
        (0.2, "healthy", ("healthy",)),  # although ALL would be the answer by the threshold
    ],
)
def test_the_one_class_of_a_prediction_set_is_the_answer(logit, label, prediction_set):
    limits = {(): (1.0, 1.0), ("healthy",): (-0.3, 1.0)}.get(prediction_set, (-1.0, -1.0))
    conformal = sets_of(*limits)
    inside = conformal.sets(np.array([[logit]]))[0]
    bundle = manifest(conformal=conformal, threshold=0.5)
    decision = decide(both(float(expit(logit))), [], bundle, inside)
    reasons = ("uncertain_set",) if label == "abstain" else ()
    assert decision == Decision(label, reasons, prediction_set)
    blurred = decide(both(float(expit(logit))), ["blurred"], bundle, inside)
    assert blurred == Decision("abstain", ("blurred", *reasons), prediction_set)


def test_prediction_sets_take_the_place_of_the_band_and_leave_other_bundles_as_they_were():
    three = {"classes": ("a", "b", "c"), "positive": (), "conformal": sets_of(0, 0, 0)}
    for changes in (
        {"conformal": sets_of(0, 0), "abstain_band": (0.4, 0.6)},
        three | {"min_confidence": 0.5},
        {"conformal": sets_of(0, 0, 0)},
    ):
        with pytest.raises(ValidationError, match="conformal"):
            manifest(**changes)
    for changes in ({}, three | {"conformal": None}):
        assert "conformal" not in manifest(**changes).model_dump(mode="json")
    written = manifest(**three).model_dump(mode="json")
    assert "threshold" not in written, "it decides nothing without positive classes"
    assert manifest(classes=("a", "b", "c"), positive=("c",)).model_dump()["threshold"] == 0.5
    assert ModelManifest(**written) == manifest(**three, schema_version=2)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"classes": ("a", "A"), "positive": ("A",)}, "twice"),
        ({"classes": ("a", "b", "c"), "positive": ("d",)}, "not among"),
        ({"classes": ("a", "b", "c")}, "not among"),  # ALL is the positive one of old bundles
        ({"classes": ("ALL", "healthy")}, "second is the positive"),
        ({"classes": ("a", "b\n", "c"), "positive": ()}, "printable"),
    ],
)
def test_classes_that_cannot_be_are_refused(changes, reason: str):
    with pytest.raises(ValidationError, match=reason):
        manifest(**changes)
