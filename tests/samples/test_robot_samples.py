"""The samples for robots and services do what they say, with the checkpoint that ships."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image as Picture

import neo_edge
from neo_edge_calibration.scenes import make_question

sys.path.insert(0, str(Path(__file__).parent))
import fake_rclpy

SAMPLES = Path(__file__).parents[2] / "samples"


def sample(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"sample_{name}", SAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def run(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SAMPLES / f"{name}.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


@pytest.fixture(scope="module")
def model(nano_bundle: Path) -> neo_edge.Model:
    return neo_edge.load(nano_bundle, threads=1)


def test_the_robot_keeps_the_ball_in_sight_and_sees_where_it_is(model: neo_edge.Model) -> None:
    robot_loop = sample("robot_loop")
    robot = robot_loop.SimulatedRobot()
    commands = set()
    for step in robot_loop.follow(model, robot, rate_hz=1000.0, steps=60):
        red = np.asarray(step.picture).astype(int)
        ball = np.argwhere((red[:, :, 0] > 180) & (red[:, :, 1] < 80))
        top, left = ball.min(0)
        bottom, right = ball.max(0) + 1
        assert (step.box.x1, step.box.y1, step.box.x2, step.box.y2) == pytest.approx(
            (left, top, right, bottom), abs=5
        )
        assert abs(robot.offset_deg) < 30
        commands.add(step.command)
    assert commands == set(robot_loop.COMMANDS)


def test_a_robot_that_is_too_slow_leaves_turns_out(model: neo_edge.Model) -> None:
    robot_loop = sample("robot_loop")
    robot = robot_loop.SimulatedRobot()
    steps = list(robot_loop.follow(model, robot, rate_hz=1000.0, steps=3))
    assert robot.looks == len(steps) == 3
    assert all(step.latency_ms > 1 for step in steps)


@pytest.mark.parametrize(
    ("answer", "command"),
    [
        ("<ref>red ball</ref><box>[[100, 200, 300, 400]]</box>\nAnswer: turn left", "turn left"),
        ("<ref>red ball</ref><box>[]</box>\nAnswer: go ahead", "go ahead"),
        ("<ref>red ball</ref><box>[[100, 200, 300, 400]]</box>\nAnswer: sing", None),
        ("nothing that it knows", None),
    ],
)
def test_the_robot_does_nothing_that_it_was_not_told(answer: str, command: str | None) -> None:
    box, found = sample("robot_loop").read(answer, Picture.new("RGB", (100, 50)))
    assert found == command
    assert (box is not None) == answer.endswith("turn left")
    if box is not None:
        assert (box.x1, box.y1, box.x2, box.y2) == (10, 10, 30, 20)


def test_the_robot_loop_prints_its_turns_and_wrong_bundles_end_with_a_message(nano_bundle: Path) -> None:
    done = run("robot_loop", nano_bundle, "--steps", "2", "--rate", "50")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"(ball at x = \d+: [a-z ]+ \(\d+ ms\)\n){2}", done.stdout)
    done = run("robot_loop", "no-bundle")
    assert (done.returncode, done.stderr.startswith("error: no-bundle")) == (1, True)


def test_the_loop_is_drawn_as_an_animation(nano_bundle: Path, tmp_path: Path) -> None:
    done = run("draw_robot_loop", nano_bundle, tmp_path / "loop.webp", "--frames", "4")
    assert done.returncode == 0, done.stderr
    with Picture.open(tmp_path / "loop.webp") as drawn:
        assert getattr(drawn, "n_frames", 1) == 4


def test_the_picture_of_the_readme_is_an_animation_below_a_megabyte() -> None:
    path = SAMPLES.parent / "docs" / "robot-loop.webp"
    assert path.stat().st_size < 1 << 20
    with Picture.open(path) as drawn:
        assert getattr(drawn, "n_frames", 1) > 30


def as_message(
    picture: Picture.Image, time_s: float, encoding: str = "rgb8", padding: int = 0
) -> fake_rclpy.Image:
    pixels = np.asarray(picture)
    if encoding == "bgr8":
        pixels = pixels[:, :, ::-1]
    rows = np.pad(pixels.reshape(len(pixels), -1), ((0, 0), (0, padding)))
    stamp = fake_rclpy.Stamp(1_700_000_000 + int(time_s), int(time_s % 1 * 1e9))
    return fake_rclpy.Image(
        fake_rclpy.Header(stamp), picture.height, picture.width, encoding, rows.shape[1], rows.tobytes()
    )


def test_the_ros_node_watches_a_topic_and_answers_on_another(
    nano_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = make_question("when", seed=1, index=1)
    assert scene.times_s is not None

    def play(node: fake_rclpy.Node) -> None:
        assert len(set(map(id, node.groups))) == 2
        for number, (picture, time_s) in enumerate(zip(scene.images, scene.times_s or (), strict=True)):
            node.send("image", as_message(picture, time_s, ("rgb8", "bgr8")[number % 2], padding=number))
        node.send("image", as_message(scene.images[0], 99.0, "yuv422"))
        cut = as_message(scene.images[0], 99.0)
        cut.data = cut.data[:-1]
        node.send("image", cut)
        node.send("question", fake_rclpy.String(scene.prompt))
        node.send("question", fake_rclpy.String("how " * 5000))

    ros = fake_rclpy.Ros(play)
    for name, module in ros.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(sys.modules["rclpy"], "utilities", sys.modules["rclpy.utilities"], raising=False)
    monkeypatch.setattr(sys, "argv", ["ros2_node.py", str(nano_bundle), "--ros-args", "-r", "image:=/camera"])
    sample("ros2_node").main()
    (node,) = ros.nodes
    (first, answer), (second, refused) = node.published
    assert first == second == "answer"
    assert answer.data.endswith(f"Answer: {scene.answer}")
    assert refused.data.startswith("error: ")
    assert "shorten the prompt" in refused.data
    unknown, cut = node.warnings
    assert "encoding 'yuv422'" in unknown
    assert "see to its publisher" in cut
    assert node.destroyed
    assert not ros.running


def test_two_cameras_are_watched_until_both_have_ended(nano_bundle: Path, tmp_path: Path) -> None:
    from video_files import video

    answers = []
    for number, family in enumerate(("colour", "shape")):
        picture = make_question(family, 1, 0).images[0].resize((128, 96))
        (tmp_path / f"{number}.mp4").write_bytes(video([np.asarray(picture)] * 8, rate=4))
        answers.append(tmp_path / f"{number}.mp4")
    done = run("two_cameras", nano_bundle, *answers, "How many objects are there?", "--ask-every", "0.5")
    assert done.returncode == 0, done.stderr
    for clip in answers:
        assert f"{clip}: {clip} gives frames of 128x96\n" in done.stdout
        assert f"{clip}: {clip} has ended\n" in done.stdout
        assert re.search(rf"^{clip}: <ref>objects", done.stdout, re.MULTILINE)
    done = run("two_cameras", nano_bundle, answers[0], tmp_path / "none.mp4", "How many?")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")


def test_the_web_service_answers_and_says_what_is_wrong(model: neo_edge.Model, tmp_path: Path) -> None:
    scene = make_question("colour", 1, 0)
    scene.images[0].save(tmp_path / "scene.png")
    service = sample("web_service").Service
    service.model = model
    server = ThreadingHTTPServer(("127.0.0.1", 0), service)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def post(data: bytes, headers: dict[str, str] | None = None) -> tuple[int, dict[str, str]]:
        address = f"http://127.0.0.1:{server.server_port}/?question=" + urllib.request.quote(scene.prompt)
        request = urllib.request.Request(address, data, headers or {}, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=600) as reply:
                return reply.status, json.load(reply)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    try:
        assert post((tmp_path / "scene.png").read_bytes()) == (
            200,
            {"answer": model.generate(scene.prompt, scene.images).text, "stop_reason": "eos"},
        )
        status, reply = post(b"no picture")
        assert (status, "cannot be read as a picture" in reply["error"]) == (400, True)
        for length in (str(1 << 40), "-1", "0"):
            status, reply = post(b"", {"Content-Length": length})
            assert (status, "at most 16777216 bytes" in reply["error"]) == (400, True)
        status, reply = post(b"x", {"Content-Length": "many"})
        assert (status, "'many'" in reply["error"]) == (400, True)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_list_of_samples_has_each_of_them() -> None:
    listed = re.findall(r"^\| `([\w/.]+)` \|", (SAMPLES / "README.md").read_text(), re.MULTILINE)
    found = {path.name for path in SAMPLES.glob("*.py")} | {
        f"{path.parent.name}/" for path in SAMPLES.glob("*/*.py")
    }
    assert sorted(listed) == sorted(found)
