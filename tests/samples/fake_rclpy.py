"""As much of ROS 2's Python interface as the sample uses, without ROS: topics in one process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any


@dataclass
class Stamp:
    sec: int = 0
    nanosec: int = 0


@dataclass
class Header:
    stamp: Stamp = field(default_factory=Stamp)


@dataclass
class Image:
    header: Header = field(default_factory=Header)
    height: int = 0
    width: int = 0
    encoding: str = ""
    step: int = 0  # bytes of a row
    data: bytes = b""


@dataclass
class String:
    data: str = ""


class CallbackGroup:
    """Its callbacks run one after the other."""


class ExternalShutdown(Exception):  # noqa: N818 - ROS's own is an exception by name
    pass


class Node:
    """Calls subscribers in the publisher's thread and remembers what was published and logged."""

    def __init__(self, name: str) -> None:
        self.name, self.destroyed = name, False
        self.subscribers: dict[str, tuple[type, Callable[[Any], None]]] = {}
        self.groups: list[CallbackGroup] = []
        self.published: list[tuple[str, Any]] = []
        self.warnings: list[str] = []

    def create_subscription(
        self,
        kind: type,
        topic: str,
        callback: Callable[[Any], None],
        qos: object,
        *,
        callback_group: CallbackGroup,
    ) -> None:
        assert isinstance(qos, int) or qos == "sensor data"
        self.subscribers[topic] = (kind, callback)
        self.groups.append(callback_group)

    def create_publisher(self, kind: type, topic: str, _qos: int) -> Publisher:
        return Publisher(self, kind, topic)

    def get_logger(self) -> Node:
        return self

    def warning(self, text: str) -> None:
        self.warnings.append(text)

    def destroy_node(self) -> None:
        self.destroyed = True

    def send(self, topic: str, message: object) -> None:
        kind, callback = self.subscribers[topic]
        assert isinstance(message, kind)
        callback(message)


class Publisher:
    def __init__(self, node: Node, kind: type, topic: str) -> None:
        self._node, self._kind, self._topic = node, kind, topic

    def publish(self, message: object) -> None:
        assert isinstance(message, self._kind)
        self._node.published.append((self._topic, message))


class Ros:
    """What a test does while the node spins, and the modules that the node imports."""

    def __init__(self, play: Callable[[Node], None]) -> None:
        self.nodes: list[Node] = []
        self.running = False
        self._play = play

    def modules(self) -> dict[str, ModuleType]:
        ros = self

        class Executor:
            def __init__(self, *, num_threads: int) -> None:
                assert num_threads >= 2  # or no frame would come while an answer is made

            def add_node(self, node: Node) -> None:
                self.node = node

            def spin(self) -> None:
                assert ros.running
                ros._play(self.node)
                raise ExternalShutdown

        def create_node(name: str) -> Node:
            ros.nodes.append(Node(name))
            return ros.nodes[-1]

        def init() -> None:
            ros.running = True

        def try_shutdown() -> None:
            ros.running = False

        return {
            "rclpy": _module("rclpy", init=init, create_node=create_node, try_shutdown=try_shutdown),
            "rclpy.utilities": _module("rclpy.utilities", remove_ros_args=_without_ros_arguments),
            "rclpy.callback_groups": _module(
                "rclpy.callback_groups", MutuallyExclusiveCallbackGroup=CallbackGroup
            ),
            "rclpy.executors": _module(
                "rclpy.executors", MultiThreadedExecutor=Executor, ExternalShutdownException=ExternalShutdown
            ),
            "rclpy.qos": _module("rclpy.qos", qos_profile_sensor_data="sensor data"),
            "sensor_msgs": _module("sensor_msgs"),
            "sensor_msgs.msg": _module("sensor_msgs.msg", Image=Image),
            "std_msgs": _module("std_msgs"),
            "std_msgs.msg": _module("std_msgs.msg", String=String),
        }


def _module(name: str, **content: object) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(content)
    return module


def _without_ros_arguments(arguments: list[str]) -> list[str]:
    return arguments[: arguments.index("--ros-args")] if "--ros-args" in arguments else arguments
