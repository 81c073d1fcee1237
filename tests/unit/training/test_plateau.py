"""The learning-rate and stopping rule of saeed2022."""

from leuk_ray.recipes.training import PlateauSettings
from leuk_ray.training.plateau import Plateau

PAPER = PlateauSettings()


def play(epochs: list[tuple[float, float]], settings: PlateauSettings = PAPER):
    plateau, decisions = Plateau(), []
    for accuracy, loss in epochs:
        # Through a checkpoint after every epoch: its state is all there is.
        plateau = Plateau(**plateau.as_dict())
        stop = plateau.step(settings, accuracy, loss)
        decisions.append((plateau.factor, stop))
    return plateau, decisions


def test_below_the_switch_only_the_training_accuracy_counts():
    plateau, decisions = play([(0.6, 1.0), (0.7, 2.0), (0.8, 3.0)])
    assert decisions == [(1.0, False)] * 3
    assert plateau.monitor == "train_accuracy"


def test_from_the_switch_on_the_validation_loss_counts_for_good():
    plateau, decisions = play([(0.95, 1.0), (0.85, 0.9), (0.99, 0.95), (0.99, 0.8)])
    assert plateau.monitor == "validation_loss"
    assert [factor for factor, _ in decisions] == [1.0, 1.0, 0.5, 0.5]


def test_three_reductions_in_vain_stop_and_an_improvement_forgives():
    _, decisions = play([(0.95, 1.0), (0.95, 1.1), (0.95, 1.1), (0.95, 1.1)])
    assert decisions == [(1.0, False), (0.5, False), (0.25, False), (0.125, True)]
    _, decisions = play([(0.95, 1.0), (0.95, 1.1), (0.95, 1.1), (0.95, 0.9), (0.95, 1.0)])
    assert decisions[-1] == (0.125, False)


def test_patience_waits_that_many_epochs():
    epochs = [(0.95, 1.0), (0.95, 1.1), (0.95, 1.1), (0.95, 1.1)]
    _, decisions = play(epochs, PlateauSettings(patience=2))
    assert [factor for factor, _ in decisions] == [1.0, 1.0, 0.5, 0.5]
