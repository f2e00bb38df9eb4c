"""A ROS 2 node that watches a camera and answers questions about what it has seen.

    python samples/ros2_node.py out/neo-ov-nano.bundle --ros-args -r image:=/camera/image_raw

Subscribes to `image` (sensor_msgs/Image) and `question` (std_msgs/String), and publishes `answer` (std_msgs/String).
"""

# ROS brings its own packages.
# pyright: reportMissingImports=false
from __future__ import annotations

import sys
from typing import Any

import numpy as np
import rclpy
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
from std_msgs.msg import String

import neo_edge

CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}


class Watcher:
    """Topics in, topics out; the model knows nothing of ROS."""

    def __init__(self, node: Any, model: neo_edge.Model) -> None:
        self.live = model.watch(max_frames=16, every="0.5s")
        self._log = node.get_logger()
        self._first_s: float | None = None
        # Two groups: frames go on coming while an answer is made. The newest one waits, the others are dropped.
        node.create_subscription(
            Image, "image", self.see, qos_profile_sensor_data, callback_group=MutuallyExclusiveCallbackGroup()
        )
        node.create_subscription(
            String, "question", self.answer, 10, callback_group=MutuallyExclusiveCallbackGroup()
        )
        self._answers = node.create_publisher(String, "answer", 10)

    def see(self, message: Any) -> None:
        """A frame, with the time that its camera gave it."""
        stamp_s = message.header.stamp.sec + 1e-9 * message.header.stamp.nanosec
        if self._first_s is None:
            self._first_s = stamp_s
        try:
            self.live.add(pixels(message), stamp_s - self._first_s)
        except neo_edge.NeoEdgeError as error:  # one bad frame is no reason to stop
            self._log.warning(f"a frame is left out: {error}")

    def answer(self, message: Any) -> None:
        """A question; what goes wrong with it is its answer."""
        try:
            text = self.live.ask(message.data).finish().text
        except neo_edge.NeoEdgeError as error:
            text = f"error: {error}"
        self._answers.publish(String(data=text))


def pixels(message: Any) -> np.ndarray:
    """The picture of a sensor_msgs/Image, [height, width, 3 or 4] uint8 in RGB, or [height, width, 1].

    Raises:
        neo_edge.errors.ImageError: an encoding that is not in `CHANNELS`, or bytes that are no such picture.
    """
    channels = CHANNELS.get(message.encoding)
    if channels is None:
        raise neo_edge.errors.ImageError(
            f"an image of encoding {message.encoding!r}; these are known: {', '.join(CHANNELS)}: have image_proc "
            "convert it"
        )
    if message.step < message.width * channels or len(message.data) != message.height * message.step:
        raise neo_edge.errors.ImageError(
            f"an image of {message.width}x{message.height} in {message.encoding} has {len(message.data)} bytes in "
            f"rows of {message.step}: see to its publisher"
        )
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)  # rows may be padded
    picture = rows[:, : message.width * channels].reshape(message.height, message.width, channels)
    order = {"bgr8": [2, 1, 0], "bgra8": [2, 1, 0, 3]}.get(message.encoding)
    return picture if order is None else picture[:, :, order]


def main() -> None:
    rclpy.init()
    bundle = rclpy.utilities.remove_ros_args(sys.argv)[1]
    node = rclpy.create_node("neo_edge")
    executor = MultiThreadedExecutor(num_threads=2)
    executor.add_node(node)
    with neo_edge.load(bundle) as model:
        watcher = Watcher(node, model)
        try:
            executor.spin()
        except (KeyboardInterrupt, ExternalShutdownException):
            pass
        finally:
            watcher.live.close()
            node.destroy_node()
            rclpy.try_shutdown()


if __name__ == "__main__":
    main()
