"""The stories are true on every device."""

import numpy as np
import pytest
from mpmath import mp

from nnkernels._demos import autoencoder, broken_sine, chain, saturation, sine

on_each_device = pytest.mark.parametrize("device", ["numpy", "numba"])


# ---- autoencoder -----------------------------------------------------------------------------------------------------


@on_each_device
def test_the_autoencoder_takes_the_known_way(device):
    result = autoencoder.run(device=device)
    expected = {  # b1, w1, b2, w2
        1: (0, 0, -0.5, -0.25),
        2: (-0.025508083, -0.1017742, -0.091870666, -0.04593527),
        10: (0.0079552941, -1.09850502, 0.049069822, -1.04975295),
        19: (1.3762732, -3.79116011, 1.5515869, -4.42910194),
    }
    for step, values in expected.items():
        np.testing.assert_allclose(result.parameters[step], values, rtol=0, atol=2e-6, err_msg=f"step {step}")
    assert result.prediction_of_1 == pytest.approx(0.7950502, abs=2e-6)
    assert result.prediction_of_0 == pytest.approx(0.10589811, abs=2e-6)
    assert result.device == device
    assert "1 comes back as 0.79505" in " ".join(autoencoder.story(result).split())


@on_each_device
def test_balanced_data_is_a_critical_point_that_batches_of_one_leave(device):
    result = autoencoder.run(balanced=True, device=device)
    assert sum(result.data) == 6
    assert not result.gradients.any()
    assert not result.parameters.any()
    assert (np.abs(result.one_by_one) > 1e-3).all()
    assert result.loss == pytest.approx(12 * np.log(2), rel=1e-6)
    assert "critical point, not convergence" in " ".join(autoencoder.story(result).split())


# ---- sine ------------------------------------------------------------------------------------------------------------


@on_each_device
def test_sine_up_to_1_is_learned_without_biases(device):
    result = sine.run(device=device)
    assert result.mean_squared_error < 1e-3
    assert result.steps == 500_000
    assert "It has learned it" in sine.story(result)


@on_each_device
def test_sine_up_to_15_is_not_learned_unscaled_and_without_biases(device):
    result = sine.run(15.0, device=device)
    assert result.mean_squared_error >= 0.6 * result.variance
    story = " ".join(sine.story(result).split())
    assert "has not learned the sine" in story
    assert "--scale" in story
    assert "--bias" in story


@on_each_device
def test_sine_up_to_15_is_learned_standardized_and_with_biases(device):
    result = sine.run(15.0, scale=True, bias=True, device=device)
    assert result.mean_squared_error <= 0.1 * result.variance
    assert "It has learned it" in sine.story(result)


@pytest.mark.parametrize(
    ("arguments", "says", "does_not_say"),
    [
        ({"scale": True}, "--bias", "--scale"),
        ({"bias": True}, "--scale", "--bias"),
        ({"scale": True, "bias": True}, "more steps", "It takes both"),
    ],
    ids=["scale", "bias", "both"],
)
def test_the_sine_story_names_what_is_missing(arguments, says, does_not_say):
    story = sine.story(sine.run(15.0, steps=200, device="numpy", **arguments))
    assert says in story
    assert does_not_say not in story


# ---- saturation ------------------------------------------------------------------------------------------------------


@on_each_device
def test_the_saturated_slope_is_the_true_one_where_the_product_is_zero(device):
    mp.dps = 50
    a = 1 / (1 + mp.exp(-mp.mpf(50)))
    slope, gradient = a * (1 - a), 2 * a * a * (1 - a) * mp.mpf("62.5")
    assert float(slope) == pytest.approx(1.93e-22, rel=1e-2)
    assert float(gradient) == pytest.approx(2.4e-20, rel=1e-2)
    result = saturation.run(device=device)
    for measured in result.slopes:
        eps = float(np.finfo(measured.dtype).eps)
        assert measured.activation == 1
        assert measured.naive == 0
        assert measured.slope == pytest.approx(float(slope), rel=6 * eps)
        assert measured.gradient == pytest.approx(float(gradient), rel=12 * eps)


@on_each_device
def test_scaling_and_cross_entropy_change_what_saturation_does(device):
    raw, scaled, cross_entropy, both = saturation.run(device=device).remedies
    assert (raw.steps, raw.weight) == (None, 0.8)  # bit for bit, after 1,000 steps
    assert scaled.steps is not None
    assert cross_entropy.gradient == pytest.approx(62.5)
    assert cross_entropy.steps == 1
    assert cross_entropy.weight == pytest.approx(0.8 - 62.5)
    assert both.steps < scaled.steps


def test_the_saturation_story_has_the_numbers():
    story = saturation.story(saturation.run(device="numpy"))
    for number in ("1.93e-22", "2.41e-20", "not in 1,000"):
        assert number in story


# ---- chain -----------------------------------------------------------------------------------------------------------


@on_each_device
def test_four_ways_to_the_same_derivatives(device):
    result = chain.run(device=device)
    np.testing.assert_allclose(result.backpropagation, result.complex_step, rtol=1e-13)
    np.testing.assert_allclose(result.closed_form, result.complex_step, rtol=1e-13)
    np.testing.assert_allclose(result.central_difference, result.complex_step, rtol=1e-8)


@on_each_device
def test_even_numbers_alone_teach_nothing_about_odd_ones(device):
    result = chain.run(device=device)
    assert result.f_zero == 0.5
    assert result.f_along < 0.5 < result.f_against
    assert result.f_even.min() > 0.99
    assert result.f_odd.min() > 0.99
    assert result.loss_both == pytest.approx(0.25, abs=0.01)
    assert "against" in chain.story(result)


# ---- broken sine -----------------------------------------------------------------------------------------------------


@on_each_device
def test_the_two_mistakes_of_the_posted_program_are_named_and_mended(device):
    result = broken_sine.run(device=device)
    assert result.codes == ("sign", "slope_at_activation")
    assert result.clean
    assert result.fixed_error < 0.1 * result.variance < result.variance < result.broken_error
    story = broken_sine.story(result)
    assert "right: delta1 = (p - t)" in story
    assert "nothing left to say" in story


# ---- all -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "module", [autoencoder, sine, saturation, chain, broken_sine], ids=lambda module: module.__name__
)
def test_stories_fit_a_terminal_and_pictures_are_drawn(module, tmp_path):
    arguments = {"steps": 100} if module in (sine, broken_sine) else {}
    result = module.run(device="numpy", **arguments)
    assert max(len(line) for line in module.story(result).splitlines()) <= 80
    module.picture(result).savefig(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5_000
