# SPDX-License-Identifier: Apache-2.0
"""Tests of the corruptions: determinism, alignment of image and truth, literal values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_data import COLORS, street

from segmentation_node.arrays import UInt8Array
from segmentation_node.errors import SettingError
from segmentation_node.labels import load_scheme
from training.corruptions import blur, camera, digital, light, noise, weather
from training.corruptions.kinds import (
    COMMON,
    EIGHT,
    GROUPS,
    KINDS,
    SEVERITIES,
    cases_of,
    common_kinds,
    corrupt,
)
from training.corruptions.sample import LabeledPixels, Pixels
from training.corruptions.textures import clouds, ice

CAMVID = load_scheme('camvid11')
VOID = CAMVID.void_id
#: Kinds whose images have another size than the frame.
RESIZING = {'scale_down', 'scale_up', 'horizon'}
#: Kinds that move the content of the frame.
MOVING = (*RESIZING, 'crop', 'aspect_ratio', 'elastic', 'zoom_blur')


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def of(
    kind: str, severity: int = 3, seed: int = 0, name: str = 'a'
) -> tuple[UInt8Array, UInt8Array]:
    image, truth = street(0)
    return corrupt(image, truth, CAMVID, (kind, severity), seed, name)


def gray(*values: float) -> Pixels:
    """A row of gray pixels, (1, N, 3)."""
    return np.repeat(np.array(values, np.float32), 3).reshape(1, -1, 3)


def pixel(red: float, green: float, blue: float) -> Pixels:
    return np.array([[[red, green, blue]]], np.float32)


# All kinds.


def test_kinds_are_those_of_the_paper_and_ours() -> None:
    assert common_kinds() == [
        'gaussian_noise', 'shot_noise', 'impulse_noise', 'defocus_blur', 'glass_blur',
        'motion_blur', 'zoom_blur', 'snow', 'frost', 'fog', 'brightness', 'contrast', 'elastic',
        'pixelate', 'jpeg',
    ]  # fmt: skip
    assert set(GROUPS) == {*COMMON, 'camera', 'light'}
    assert all(len(kind.levels) == len(SEVERITIES) for kind in KINDS.values())
    assert len(EIGHT) == 8
    assert set(EIGHT.values()) <= set(cases_of(GROUPS, SEVERITIES))


@pytest.mark.parametrize('kind', KINDS)
def test_image_and_truth_stay_a_pair(kind: str) -> None:
    before, truth_before = street(0)
    for severity in SEVERITIES:
        image, truth = of(kind, severity)
        assert image.dtype == truth.dtype == np.uint8
        assert image.shape == (*truth.shape, 3)
        assert (truth.shape == truth_before.shape) == (kind not in RESIZING)
        assert set(np.unique(truth)) <= {*np.unique(truth_before), VOID}
        assert image.shape != before.shape or (image != before).any()


@pytest.mark.parametrize('kind', KINDS)
def test_randomness_is_that_of_seed_name_kind_and_severity(kind: str) -> None:
    image, truth = of(kind)
    again, truth_again = of(kind)
    assert (image == again).all()
    assert (truth == truth_again).all()
    is_random = any(
        other.shape != image.shape or (other != image).any()
        for other, _ in [of(kind, seed=seed) for seed in (1, 2, 3)]
    )
    fixed = {
        'defocus_blur', 'zoom_blur', 'brightness', 'contrast', 'pixelate', 'jpeg', 'scale_down',
        'scale_up', 'dark', 'warm_light',
    }  # fmt: skip
    assert is_random == (kind not in fixed)


def test_frames_have_different_noise() -> None:
    assert (of('gaussian_noise', name='a')[0] != of('gaussian_noise', name='b')[0]).any()


#: Kinds whose strength or direction is random, or whose image of small squares is not worse.
UNORDERED = (*MOVING, 'pixelate', 'gamma', 'color_temperature', 'snow', 'frost', 'fog')


@pytest.mark.parametrize('kind', [kind for kind in KINDS if kind not in UNORDERED])
def test_severities_grow(kind: str) -> None:
    before, truth = street(0, 224, 256)
    errors = []
    for severity in (1, 5):
        images = [corrupt(before, truth, CAMVID, (kind, severity), i, 'a')[0] for i in range(3)]
        errors.append(np.mean([np.abs(image - before.astype(float)).mean() for image in images]))
    assert errors[1] > 1.1 * errors[0]


@pytest.mark.parametrize('kind', sorted(MOVING))
@pytest.mark.parametrize('severity', SEVERITIES)
def test_truth_follows_the_image(kind: str, severity: int) -> None:
    """An image painted from its truth still shows the truth, except along boundaries."""
    _, ids = street(0, 240, 320)
    colors = np.zeros((256, 3), np.uint8)
    colors[list(COLORS)] = list(COLORS.values())
    image, truth = corrupt(colors[ids], ids, CAMVID, (kind, severity), 0, 'a')
    distance = np.abs(image[:, :, None].astype(int) - np.array([*COLORS.values()])).sum(-1)
    shown = np.array([*COLORS])[distance.argmin(-1)]
    counted = truth != VOID
    assert counted.mean() > 0.6
    assert (shown == truth)[counted].mean() > (0.9 if kind == 'zoom_blur' else 0.97)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([*KINDS]), st.sampled_from([1, 5]))
def test_frames_of_any_size_can_be_corrupted(
    height: int, width: int, kind: str, severity: int
) -> None:
    image, truth = street(0, 64, 96)
    part = image[:height, :width], truth[:height, :width]
    found, found_truth = corrupt(*part, CAMVID, (kind, severity), 0, 'a')
    assert found.shape[:2] == found_truth.shape


def test_names_choose_kinds_groups_and_sets() -> None:
    assert cases_of(['jpeg'], [1, 5]) == [('jpeg', 1), ('jpeg', 5)]
    assert len(cases_of(['noise', 'shot_noise'], [2])) == 3
    assert len(cases_of(['common'], SEVERITIES)) == 75
    assert set(cases_of(['eight'], [1])) == set(EIGHT.values())
    with pytest.raises(SettingError, match=r"unknown kind of corruption 'rain'; available: eight"):
        cases_of(['rain'], [1])


# Single kinds by their values.


def test_noise_has_the_deviation_of_its_level() -> None:
    image = np.full((100, 100, 3), 0.5, np.float32)
    assert noise.gaussian_noise(image, 0.2, rng()).std() == pytest.approx(0.2, rel=0.02)
    assert noise.shot_noise(image, 50, rng()).std() == pytest.approx(0.1, rel=0.02)
    impulses = noise.impulse_noise(image, 0.3, rng())
    assert (impulses == 0).mean() == pytest.approx(0.15, abs=0.01)
    assert (impulses == 1).mean() == pytest.approx(0.15, abs=0.01)
    assert (impulses == 0.5).mean() == pytest.approx(0.7, abs=0.01)


@pytest.mark.parametrize('angle', [-45, 0, 30, 90])
def test_trail_has_its_mean_in_the_middle(angle: float) -> None:
    kernel = blur.trail(20, 8, angle)
    assert kernel.sum() == pytest.approx(1)
    y, x = np.mgrid[: kernel.shape[0], : kernel.shape[1]] - kernel.shape[0] // 2
    assert (kernel * x).sum() == pytest.approx(0, abs=1e-3)
    assert (kernel * y).sum() == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize('kind', ['defocus_blur', 'glass_blur', 'motion_blur'])
def test_blur_does_not_move_a_point(kind: str) -> None:
    image = np.zeros((224, 224, 3), np.float32)
    image[100:120, 100:120] = 1
    sample = LabeledPixels(image, np.zeros((224, 224), np.uint8), VOID)
    found = np.mean(
        [KINDS[kind].change(sample, KINDS[kind].levels[4], np.random.default_rng(seed)).image
         for seed in range(10)], axis=(0, 3),
    )  # fmt: skip
    y, x = np.mgrid[:224, :224]
    assert found.sum() == pytest.approx(400, rel=0.05)
    assert (found * x).sum() / found.sum() == pytest.approx(109.5, abs=0.7)
    assert (found * y).sum() / found.sum() == pytest.approx(109.5, abs=0.7)


def test_contrast_brightness_and_exposure_by_hand() -> None:
    assert digital.contrast(gray(0.2, 0.6), 0.5, rng()) == pytest.approx(gray(0.3, 0.5))
    assert weather.brightness(gray(0.2, 0.9), 0.3, rng()) == pytest.approx(gray(0.5, 1.0))
    tinted = weather.brightness(pixel(0.4, 0.2, 0.0), 0.4, rng())
    assert tinted == pytest.approx(pixel(0.8, 0.4, 0.0), abs=1e-6)
    assert light.dark(gray(1.0), 0.25, rng()) == pytest.approx(gray(0.25 ** (1 / 2.2)))


def test_coarse_pixels_are_means() -> None:
    image = np.repeat(np.array([[0, 1], [0.5, 0.5]], np.float32)[..., None], 3, 2)
    image = image.repeat(112, 0).repeat(112, 1)  # (224, 224, 3), as in the paper
    assert digital.pixelate(image, 1 / 112, rng()) == pytest.approx(image)
    assert digital.pixelate(image, 1 / 224, rng()) == pytest.approx(np.full_like(image, 0.5))


def test_snow_fog_and_frost_whiten() -> None:
    image = np.full((120, 160, 3), 0.2, np.float32)
    assert weather.snow(image, KINDS['snow'].levels[2], rng()).mean() > 0.4
    assert weather.frost(image, (0.6, 0.75), rng()).mean() > 0.3
    foggy = weather.fog(image, (3, 1.4), rng())
    assert foggy.min() < 0.1 < 0.15 < foggy.max() <= image.max() + 1e-6
    for texture in (clouds((50, 70), 2, rng()), ice((50, 70), 0)):
        assert texture.shape == (50, 70)
        assert texture.min() >= 0
        assert texture.max() <= 1
        assert texture.std() > 0.1


def test_daylight_has_no_cast_and_warm_light_is_warm() -> None:
    assert light.temperature_cast(gray(0.5), 6500) == pytest.approx(gray(0.5), abs=1e-6)
    casts = [light.temperature_cast(gray(0.5), kelvin)[0, 0] for kelvin in (2500, 4500, 12000)]
    (red, _, blue) = np.array(casts).T
    assert (np.diff(red) < 0).all()
    assert (np.diff(blue) > 0).all()
    luminance = (np.array(casts) ** 2.2) @ [0.2126, 0.7152, 0.0722]
    assert luminance == pytest.approx(0.5**2.2, rel=1e-4)


def test_the_sky_is_dark_at_night() -> None:
    image, truth = street(0, 240, 320)
    found, same = corrupt(image, truth, CAMVID, ('night', 3), 0, 'a')
    is_sky = truth == CAMVID.id_of('sky')
    assert (same == truth).all()
    assert image[is_sky].mean() > 2 * image[~is_sky].mean()
    assert found[is_sky].mean() < found[~is_sky].mean() < image[~is_sky].mean() / 2


def test_other_cameras_by_hand() -> None:
    ramp = np.arange(10, dtype=np.float32)[:, None].repeat(20, 1)
    image = np.asarray(ramp[..., None].repeat(3, 2) / np.float32(10), np.float32)
    sample = LabeledPixels(image, ramp.astype(np.uint8), VOID)
    cut = [camera.horizon(sample, 0.4, np.random.default_rng(i)).truth[:, 0].tolist()
           for i in range(8)]  # fmt: skip
    assert {tuple(rows) for rows in cut} == {(0, 1, 2, 3, 4, 5), (4, 5, 6, 7, 8, 9)}
    assert camera.scale(sample, 0.5, rng()).truth.shape == (5, 10)
    enlarged = camera.crop(sample, 0.5, rng())
    assert enlarged.size_hw == (10, 20)
    assert len(np.unique(enlarged.truth)) == 5
    exponents = {
        round(float(np.log(camera.gamma(gray(0.5), 2, np.random.default_rng(i))[0, 0, 0])
                    / np.log(0.5)), 3)
        for i in range(8)
    }  # fmt: skip
    assert exponents == {0.5, 2.0}
