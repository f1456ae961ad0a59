# SPDX-License-Identifier: Apache-2.0
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from segmentation_node.arrays import UInt8Array
from segmentation_node.errors import DatasetError, SettingError
from segmentation_node.images.cityscapes import KINDS
from segmentation_node.labels import load_scheme
from training.scenes.__main__ import main
from training.scenes.camera import Camera, Extrinsic, Intrinsic, VehiclePose
from training.scenes.canvas import Canvas
from training.scenes.geometry import Footprint, Panel, Thing
from training.scenes.render import SCHEME, RenderedFrame, Renderer
from training.scenes.street import Street
from training.scenes.textures import plain
from training.scenes.visibility import back_to_front
from training.scenes.write import SequenceName, camera_content, write_sequence

WIDTH, HEIGHT = 256, 128
SEED = 2
SCHEME_34 = load_scheme(SCHEME)


@pytest.fixture(scope='module')
def street() -> Street:
    return Street(SEED)


@pytest.fixture(scope='module')
def other_street() -> Street:
    return Street(SEED + 1)


@pytest.fixture(scope='module')
def video(street: Street) -> list[RenderedFrame]:
    renderer = Renderer(WIDTH, HEIGHT)
    return [renderer.render(street, t) for t in (0.0, 0.1, 1.5, 4.0)]


def redrawn(frame: RenderedFrame) -> UInt8Array:
    """Labels as anyone would draw them from the polygons alone, (H, W) uint8."""
    labels = np.zeros((frame.polygons['imgHeight'], frame.polygons['imgWidth']), np.uint8)
    for item in frame.polygons['objects']:
        cv2.fillPoly(labels, [np.array(item['polygon'])], SCHEME_34.id_of(item['label']))
    return labels


def plain_camera(**changes: float) -> Camera:
    extrinsic = replace(Extrinsic(1.5, 0.25, 1.25, 0.0, 0.0, 0.0), **changes)
    return Camera(200, 100, Intrinsic(100, 100, 100, 50), extrinsic, VehiclePose(0, 0, 0))


# The same world every time


def test_same_seed_gives_the_same_bytes(video: list[RenderedFrame]) -> None:
    # Asked for alone, out of order and by fresh objects, a frame is what it was in the video.
    again = Renderer(WIDTH, HEIGHT).render(Street(SEED), 1.5)
    assert np.array_equal(again.image_rgb, video[2].image_rgb)
    assert np.array_equal(again.instance_ids, video[2].instance_ids)
    assert again.polygons == video[2].polygons


def test_other_seed_gives_another_street(video: list[RenderedFrame], other_street: Street) -> None:
    other = Renderer(WIDTH, HEIGHT).render(other_street, 0.0)
    same_label = np.mean(other.label_ids == video[0].label_ids)
    difference = np.abs(other.image_rgb.astype(int) - video[0].image_rgb.astype(int)).mean()
    assert same_label < 0.9
    assert difference > 15.0


def test_renderer_does_not_mix_streets(street: Street, other_street: Street) -> None:
    renderer = Renderer(64, 64)
    alone = renderer.render(street, 0.5)
    renderer.render(other_street, 0.5)
    assert np.array_equal(renderer.render(street, 0.5).image_rgb, alone.image_rgb)


# What is in the frames


def test_frame_shapes_and_types(video: list[RenderedFrame]) -> None:
    frame = video[0]
    assert frame.image_rgb.shape == (HEIGHT, WIDTH, 3)
    assert frame.image_rgb.dtype == np.uint8
    assert frame.label_ids.shape == frame.instance_ids.shape == (HEIGHT, WIDTH)
    assert frame.label_ids.dtype == np.uint8
    assert frame.instance_ids.dtype == np.int32


def test_main_classes_appear_and_all_ids_exist(video: list[RenderedFrame]) -> None:
    seen = np.unique(np.concatenate([f.label_ids.ravel() for f in video]))
    SCHEME_34.check_ids(seen.astype(np.uint8))
    for name in ('road', 'sidewalk', 'building', 'vegetation', 'sky', 'car', 'person', 'pole'):
        assert SCHEME_34.id_of(name) in seen, name
    assert SCHEME_34.id_of('ego vehicle') in seen
    assert SCHEME_34.id_of('unlabeled') not in seen


def test_sky_is_above_road_and_pictures_are_no_flat_colours(video: list[RenderedFrame]) -> None:
    frame = video[0]
    rows = np.arange(HEIGHT)[:, None].repeat(WIDTH, 1)
    sky, road = (frame.label_ids == SCHEME_34.id_of(n) for n in ('sky', 'road'))
    assert rows[sky].mean() < rows[road].mean()
    assert frame.image_rgb[sky].mean() > frame.image_rgb[road].mean()
    assert 40 < frame.image_rgb.mean() < 200
    assert frame.image_rgb.std() > 25
    detail = np.abs(np.diff(frame.image_rgb[road].astype(int), axis=0)).mean()
    assert detail > 1.0


def test_instances_carry_their_label(video: list[RenderedFrame]) -> None:
    countable = {c.id for c in SCHEME_34.classes if c.countable}
    for frame in video:
        things = np.isin(frame.label_ids, list(countable))
        assert things.any()
        assert np.array_equal(frame.instance_ids[things] // 1000, frame.label_ids[things])
        assert np.array_equal(frame.instance_ids[~things], frame.label_ids[~things])
    assert max(f.instance_ids.max() for f in video) < 2**16


def test_instance_numbers_are_stable_and_distinct(video: list[RenderedFrame]) -> None:
    car = SCHEME_34.id_of('car')
    first, second = (f.instance_ids for f in video[:2])
    both = (first // 1000 == car) & (second // 1000 == car)
    assert len(np.unique(first[first // 1000 == car])) > 1
    assert np.mean(first[both] == second[both]) > 0.8


def test_polygons_drawn_in_order_are_the_labels(video: list[RenderedFrame]) -> None:
    for frame in video:
        assert np.mean(redrawn(frame) == frame.label_ids) >= 0.97
        points = np.concatenate([np.array(o['polygon']) for o in frame.polygons['objects']])
        assert points.min() >= 0
        assert points[:, 0].max() < WIDTH
        assert points[:, 1].max() < HEIGHT


def test_labels_scale_with_the_size(street: Street, video: list[RenderedFrame]) -> None:
    large = Renderer(2 * WIDTH, 2 * HEIGHT).render(street, 0.0)
    assert np.mean(large.label_ids[::2, ::2] == video[0].label_ids) > 0.93


def test_consecutive_frames_are_video(video: list[RenderedFrame]) -> None:
    start, next_frame, late = video[0], video[1], video[3]
    close = np.mean(start.label_ids == next_frame.label_ids)
    assert close > 0.88
    assert close > np.mean(start.label_ids == late.label_ids)
    assert not np.array_equal(start.image_rgb, next_frame.image_rgb)


def test_size_below_the_minimum_is_refused() -> None:
    with pytest.raises(SettingError, match=r'63x64.*at least 64x64'):
        Renderer(63, 64)


def test_negative_seed_is_refused() -> None:
    with pytest.raises(SettingError, match='-1 is negative'):
        Street(-1)


# Camera


def projected(camera: Camera, x: float, y: float, z: float) -> tuple[float, float]:
    """A world point in m before the camera as a pixel."""
    u, v, depth = camera.homogeneous(np.array([[x, y, z]]))[0]
    assert depth > 0
    return u / depth, v / depth


def test_point_ahead_projects_where_a_pinhole_puts_it() -> None:
    # 8 m before the lens, 2 m left of it, 1 m above it: 25 px left and 12.5 px up.
    assert projected(plain_camera(), 9.5, 2.25, 2.25) == pytest.approx((75.0, 37.5))


def test_positive_pitch_looks_down_and_positive_yaw_left() -> None:
    ahead = 11.5, 0.25, 1.25
    assert projected(plain_camera(pitch=0.1), *ahead)[1] < 50.0
    assert projected(plain_camera(yaw=0.1), *ahead)[0] > 100.0


def test_camera_file_explains_where_the_road_is_drawn(street: Street) -> None:
    frame = Renderer(WIDTH, HEIGHT).render(street, 1.5)
    content = json.loads(json.dumps(camera_content(frame.camera)))
    mount, k = content['extrinsic'], content['intrinsic']
    assert set(mount) == {'baseline', 'pitch', 'roll', 'x', 'y', 'yaw', 'z'}
    assert set(k) == {'fx', 'fy', 'u0', 'v0'}
    camera = Camera(
        WIDTH,
        HEIGHT,
        Intrinsic(**k),
        Extrinsic(**{n: v for n, v in mount.items() if n != 'baseline'}),
        VehiclePose(0.0, 0.0, 0.0),
    )
    # The road's edge, in the vehicle's frame, through the numbers of the file alone.
    layout, pose = street.layout, frame.camera.vehicle
    turn = np.array([[np.cos(pose.yaw), np.sin(pose.yaw)], [-np.sin(pose.yaw), np.cos(pose.yaw)]])
    bare, road = _ground_only(frame), SCHEME_34.id_of('road')
    seen = []
    for x in (8.0, 12.0, 20.0):
        for t, inside in ((-0.9, True), (0.9, True), (-1.1, False), (1.1, False)):
            edge = layout.half_road + (0.0 if inside else max(layout.parking))
            world = layout.world(pose.x + x, t * edge)[:2] - (pose.x, pose.y)
            ahead, left = turn @ world
            u, v = np.rint(projected(camera, ahead, left, 0.0)).astype(int)
            if 0 <= u < WIDTH and 0 <= v < HEIGHT:
                assert (bare[v, u] == road) == inside
                seen.append(inside)
    assert set(seen) == {True, False}


def _ground_only(frame: RenderedFrame) -> UInt8Array:
    """Labels of the ground alone, redrawn from the polygons before anything stands on it."""
    labels = np.zeros(frame.label_ids.shape, np.uint8)
    for item in frame.polygons['objects']:
        if item['label'] in {'sky', 'terrain', 'road', 'sidewalk', 'parking'}:
            cv2.fillPoly(labels, [np.array(item['polygon'])], SCHEME_34.id_of(item['label']))
    return labels


# Painting


def board(x: float, label: str = 'car', number: int | None = 7) -> Thing:
    """A white square of 2 m, standing across the view at x m ahead of the world's origin."""
    panel = Panel(
        np.array([x, 1.25, 2.25]),
        np.array([0.0, -2.0, 0.0]),
        np.array([0.0, 0.0, -2.0]),
        plain((250, 250, 250)),
    )
    return Thing(label, (panel,), Footprint(x, x, -0.75, 1.25), number)


def paint(canvas: Canvas, thing: Thing) -> None:
    canvas.paint(thing, canvas.glimpses(thing), haze=0.0, haze_rgb=(0, 0, 0))


def test_board_is_painted_and_labelled_where_it_stands() -> None:
    canvas = Canvas(plain_camera(), SCHEME_34)
    paint(canvas, board(6.5))
    # Depth 5 m, from 1 m left to 1 m right of the lens and 1 m up and down: +-20 px.
    inside = np.zeros((100, 200), bool)
    inside[31:70, 81:120] = True
    outside = np.ones((100, 200), bool)
    outside[29:72, 79:122] = False
    assert (canvas.label_ids[inside] == SCHEME_34.id_of('car')).all()
    assert (canvas.instance_ids[inside] == SCHEME_34.id_of('car') * 1000 + 7).all()
    assert (canvas.rgba[inside][:, :3] >= 245).all()
    assert not canvas.label_ids[outside].any()
    assert not canvas.rgba[outside].any()


def test_panel_through_the_camera_is_cut_not_lost() -> None:
    canvas = Canvas(plain_camera(), SCHEME_34)
    wall = Panel(
        np.array([-20.0, 3.25, 5.0]),
        np.array([60.0, 0.0, 0.0]),
        np.array([0.0, 0.0, -5.0]),
        plain((90, 90, 90)),
    )
    paint(canvas, Thing('building', (wall,), Footprint(-20, 40, 3.2, 3.3)))
    assert canvas.label_ids[50, 0] == SCHEME_34.id_of('building')
    assert canvas.label_ids[50, 150] == 0


def test_what_hides_is_painted_last() -> None:
    far, near = board(30.0), board(10.0)
    house = Thing('building', (), Footprint(0.0, 40.0, 6.0, 14.0))
    yard = Thing('vegetation', (), Footprint(18.0, 19.0, 15.0, 16.0))
    order = back_to_front([near, house, far, yard], t_eye=0.0)
    assert order.index(yard) < order.index(house) < order.index(near)
    assert order.index(far) < order.index(near)


# Files


@pytest.fixture(scope='module')
def written(tmp_path_factory: pytest.TempPathFactory, street: Street) -> SequenceName:
    root = tmp_path_factory.mktemp('scenes')
    name = SequenceName(root, 'val', 'testtown', 3)
    paths = list(write_sequence(name, street, Renderer(96, 64), 2, 10.0, progress=False))
    assert paths == [name.path('leftImg8bit', i) for i in range(2)]
    return name


def test_files_lie_where_cityscapes_has_them(written: SequenceName) -> None:
    files = {str(p.relative_to(written.root)) for p in written.root.rglob('*') if p.is_file()}
    start = 'val/testtown/testtown_000003_00000'
    assert files == {
        f'{folder}/{start}{i}_{end}'
        for i in (0, 1)
        for folder, end in (
            ('leftImg8bit', 'leftImg8bit.png'),
            ('gtFine', 'gtFine_labelIds.png'),
            ('gtFine', 'gtFine_instanceIds.png'),
            ('gtFine', 'gtFine_color.png'),
            ('gtFine', 'gtFine_polygons.json'),
            ('camera', 'camera.json'),
            ('timestamp_sequence', 'timestamp.txt'),
        )
    }


def test_files_read_back_as_rendered(written: SequenceName, street: Street) -> None:
    frame = Renderer(96, 64).render(street, 0.1)

    def read(kind: str) -> npt.NDArray[np.generic]:
        image = cv2.imread(str(written.path(kind, 1)), cv2.IMREAD_UNCHANGED)
        assert image is not None
        return np.asarray(image)

    assert np.array_equal(read('leftImg8bit')[..., ::-1], frame.image_rgb)
    assert read('gtFine_labelIds').dtype == np.uint8
    assert np.array_equal(read('gtFine_labelIds'), frame.label_ids)
    assert read('gtFine_instanceIds').dtype == np.uint16
    assert np.array_equal(read('gtFine_instanceIds'), frame.instance_ids)
    color = read('gtFine_color')
    assert np.array_equal(color[..., 2::-1], SCHEME_34.palette[frame.label_ids])
    assert (color[..., 3] == 255).all()
    assert json.loads(written.path('gtFine_polygons', 1).read_text()) == frame.polygons
    assert json.loads(written.path('camera', 1).read_text()) == camera_content(frame.camera)
    assert int(written.path('timestamp', 1).read_text()) == 100_000_000


def test_sequence_layout_moves_the_pictures_alone(tmp_path: Path) -> None:
    name = SequenceName(tmp_path, 'train', 'a', 0, sequence_layout=True)
    folders = {kind: name.path(kind, 0).relative_to(tmp_path).parts[0] for kind in KINDS}
    assert folders['leftImg8bit'] == 'leftImg8bit_sequence'
    assert folders['gtFine_labelIds'] == 'gtFine'


def test_existing_sequence_is_refused_and_kept(
    written: SequenceName, capsys: pytest.CaptureFixture[str]
) -> None:
    before = written.path('leftImg8bit', 0).read_bytes()
    options = ['--city', 'testtown', '--sequence', '3', '--size', '64x64', '--quiet']
    command = [str(written.root), *options, '--frames', '1', '--seed', '5']
    assert main(command) == 1
    error = capsys.readouterr().err
    assert '14 files' in error
    assert '--overwrite' in error
    assert written.path('leftImg8bit', 0).read_bytes() == before
    with pytest.raises(DatasetError, match='testtown_000003'):
        list(write_sequence(written, Street(0), Renderer(64, 64), 1, 10.0, progress=False))


def test_command_writes_the_seed_it_is_told(tmp_path: Path, street: Street) -> None:
    options = ['--seed', str(SEED), '--size', '80x64', '--sequence-layout', '--quiet']
    assert main([str(tmp_path), *options, '--frames', '1', '--city', 'b', '--split', 'test']) == 0
    path = SequenceName(tmp_path, 'test', 'b', 0, sequence_layout=True).path('leftImg8bit', 0)
    image = cv2.imread(str(path))
    assert image is not None
    assert np.array_equal(image[..., ::-1], Renderer(80, 64).render(street, 0.0).image_rgb)


def test_existing_sequence_is_overwritten_when_told(tmp_path: Path, street: Street) -> None:
    name = SequenceName(tmp_path, 'val', 'a', 0)
    for kind in ('leftImg8bit', 'camera'):
        name.path(kind, 0).parent.mkdir(parents=True)
        name.path(kind, 0).write_text('old')
    renderer = Renderer(64, 64)
    list(write_sequence(name, street, renderer, 1, 10.0, overwrite=True, progress=False))
    assert cv2.imread(str(name.path('leftImg8bit', 0))) is not None
    assert json.loads(name.path('camera', 0).read_text())['intrinsic']['u0'] == 32.0


def test_nothing_of_an_overwritten_sequence_is_left(tmp_path: Path, street: Street) -> None:
    before = SequenceName(tmp_path, 'val', 'a', 0)
    other = SequenceName(tmp_path, 'val', 'a', 1).path('camera', 0)
    other.parent.mkdir(parents=True)
    other.write_text('{}')
    renderer = Renderer(64, 64)
    list(write_sequence(before, street, renderer, 3, 10.0, progress=False))
    after = replace(before, sequence_layout=True)
    list(write_sequence(after, street, renderer, 2, 10.0, overwrite=True, progress=False))
    files = {path for path in tmp_path.rglob('*') if path.is_file()}
    assert files == {other, *(after.path(kind, i) for kind in KINDS for i in (0, 1))}


@pytest.mark.parametrize('size', ['1024', '63x64', 'axb', '64x'])
def test_bad_size_is_refused_by_the_command(
    size: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / 'out'), '--size', size])
    assert stop.value.code == 2
    assert size in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'city': 'new_york'}, r"city 'new_york'"),
        ({'split': '../val'}, 'split'),
        ({'sequence': 1_000_000}, '1000000'),
    ],
)
def test_names_that_break_the_layout_are_refused(
    changes: dict[str, str | int], message: str, tmp_path: Path
) -> None:
    fields: dict[str, object] = {'split': 'val', 'city': 'a', 'sequence': 0, **changes}
    with pytest.raises(SettingError, match=message):
        SequenceName(tmp_path, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(('frames', 'rate_hz'), [(0, 10.0), (1, 0.0), (1, float('nan'))])
def test_frames_and_rate_out_of_range_are_refused(
    frames: int, rate_hz: float, tmp_path: Path
) -> None:
    name = SequenceName(tmp_path, 'val', 'a', 0)
    with pytest.raises(SettingError, match='out of range'):
        list(write_sequence(name, Street(0), Renderer(64, 64), frames, rate_hz))
    assert not list(tmp_path.iterdir())
