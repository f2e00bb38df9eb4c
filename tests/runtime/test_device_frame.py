"""Frames that lie on a GPU: read from both protocols, resized as Pillow does, encoded without a trip over the host."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from host_device import HostDevice, _weighted
from PIL import Image
from tensorrt_bundle import Fakes
from tiny_golden import TOKENS

from neo_edge.bundle import Bundle
from neo_edge.errors import BackendError, ImageError, InputError
from neo_edge.options import SamplingOptions
from neo_edge_runtime import Model
from neo_edge_runtime.bicubic import bicubic_table
from neo_edge_runtime.device_frame import device_frame, is_on_device
from neo_edge_runtime.image_input import load_image
from neo_edge_runtime.preprocessing import SizedImage
from neo_edge_runtime.vision_encoder import encode_images

SEED = np.random.default_rng(0)


class CudaArray:
    """What cupy, pycuda and torch hand out."""

    __cuda_array_interface__: dict[str, Any]

    def __init__(self, device: HostDevice, pixels: np.ndarray, **described: Any) -> None:
        self.address = device.allocate(pixels.nbytes, "a frame")
        device.view(self.address, pixels.nbytes)[...] = pixels.reshape(-1).view(np.uint8)
        self.__cuda_array_interface__ = {
            "shape": pixels.shape,
            "typestr": pixels.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "version": 3,
            **described,
        }


class DlpackArray:
    """An array with DLPack's protocol alone: numpy's capsule, said to be of another device."""

    def __init__(self, pixels: np.ndarray, device: int = 2) -> None:
        self._pixels, self._device = pixels, device

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device, 0

    def __dlpack__(self, *, stream: int) -> object:
        assert stream == -1
        return self._pixels.__dlpack__()


def resize(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    across = _weighted(pixels.transpose(1, 0, 2), bicubic_table(pixels.shape[1], width)).transpose(1, 0, 2)
    return _weighted(across, bicubic_table(pixels.shape[0], height))


@pytest.mark.parametrize(
    ("size", "target", "differs"),
    [
        ((640, 480), (672, 480), 0),
        ((640, 480), (320, 224), 0),
        ((1280, 720), (416, 224), 0),
        ((64, 64), (64, 64), 0),
        ((100, 37), (320, 128), 0),
        ((480, 640), (224, 320), 0),
        ((111, 259), (32, 64), 1),  # tall: Pillow 13 begins with the other axis
    ],
)
def test_the_table_gives_pillows_pixels(size: tuple[int, int], target: tuple[int, int], differs: int) -> None:
    pixels = SEED.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize(target, Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(resize(pixels, *target) - expected).max() <= differs


def test_an_array_on_a_gpu_is_known_by_either_protocol_and_one_on_the_host_is_not() -> None:
    pixels = np.zeros((4, 6, 3), np.uint8)
    assert is_on_device(CudaArray(HostDevice(), pixels))
    assert is_on_device(DlpackArray(pixels))
    assert is_on_device(DlpackArray(pixels, device=13))
    assert not is_on_device(DlpackArray(pixels, device=1))
    for other in (pixels, Image.new("RGB", (2, 2)), "picture.png", b"", None):
        assert not is_on_device(other)


def test_a_tensor_of_the_host_that_has_the_attribute_all_the_same_is_of_the_host() -> None:
    torch = pytest.importorskip("torch")
    assert not is_on_device(torch.zeros((4, 6, 3), dtype=torch.uint8))


def test_a_frame_has_the_arrays_address_size_and_strides() -> None:
    device, pixels = HostDevice(), np.zeros((4, 6, 3), np.uint8)
    array = CudaArray(device, pixels)
    frame = device_frame(array)
    assert (frame.address, frame.height, frame.width, frame.strides) == (array.address, 4, 6, (18, 3, 1))
    planes = device_frame(CudaArray(device, pixels, strides=(6, 1, 24)))
    assert planes.strides == (6, 1, 24)
    whole = SEED.integers(0, 256, (9, 8, 3), dtype=np.uint8)
    part = device_frame(DlpackArray(whole[2:8, ::2]))
    assert (part.height, part.width, part.strides) == (6, 4, (24, 6, 1))
    assert part.address == whole.ctypes.data + 48
    assert ctypes.string_at(part.address, 3) == whole[2, 0].tobytes()


@pytest.mark.parametrize(
    "pixels", [np.zeros((4, 6), np.uint8), np.zeros((4, 6, 4), np.uint8), np.zeros((4, 6, 3))]
)
def test_an_array_of_another_shape_or_type_is_refused(pixels: np.ndarray) -> None:
    for array in (CudaArray(HostDevice(), pixels), DlpackArray(pixels)):
        with pytest.raises(
            ImageError, match=r"it must be \[height, width, 3\], RGB, of uint8: permute or convert"
        ):
            device_frame(array)


def test_a_model_on_the_host_says_that_the_frame_is_on_a_gpu() -> None:
    with pytest.raises(ImageError, match="the DlpackArray lies on a GPU, and this model runs elsewhere"):
        load_image(DlpackArray(np.zeros((4, 6, 3), np.uint8)))


@pytest.fixture
def model(fakes: Fakes) -> Iterator[Model]:
    with Model(fakes.open(), tokens=TOKENS, max_pixels=16384) as model:
        yield model


PROMPT = [5, 6, TOKENS.img_start, TOKENS.img_context, TOKENS.img_end, 7]
GREEDY = SamplingOptions(max_new_tokens=4)


@pytest.mark.parametrize("planes", [False, True])
def test_an_answer_about_a_frame_on_the_gpu_is_that_about_its_copy_on_the_host(
    model: Model, fakes: Fakes, planes: bool
) -> None:
    pixels = SEED.integers(0, 256, (96, 128, 3), dtype=np.uint8)
    if planes:
        stored, strides = np.ascontiguousarray(pixels.transpose(2, 0, 1)), (128, 1, 96 * 128)
        array = CudaArray(fakes.device, stored, shape=pixels.shape, strides=strides)
    else:
        array = CudaArray(fakes.device, pixels)
    (on_device,), (on_host,) = (model._prompts.size([each]) for each in (array, pixels))
    assert on_device.frame is not None
    assert on_device.grid == on_host.grid
    tokens = [encode_images(model._backend, [sized]) for sized in (on_device, on_host)]
    assert np.array_equal(*tokens)
    assert fakes.device.waited == 1, "what wrote the frame has finished"
    answers = [model.generate(PROMPT, [each], options=GREEDY).token_ids for each in (array, pixels)]
    assert answers[0] == answers[1]


def test_frames_of_both_kinds_keep_their_order(model: Model, fakes: Fakes) -> None:
    pictures = [SEED.integers(0, 256, (64, 96, 3), dtype=np.uint8) for _ in range(4)]
    mixed = [
        pictures[0],
        CudaArray(fakes.device, pictures[1]),
        CudaArray(fakes.device, pictures[2]),
        pictures[3],
    ]
    found, expected = (encode_images(model._backend, model._prompts.size(each)) for each in (mixed, pictures))
    assert np.array_equal(found, expected)


def test_one_frame_that_is_no_list_is_refused(model: Model, fakes: Fakes) -> None:
    with pytest.raises(InputError, match="images is one CudaArray; pass a list"):
        model.generate(PROMPT, CudaArray(fakes.device, np.zeros((64, 64, 3), np.uint8)))  # type: ignore[arg-type]


def test_a_frame_elsewhere_or_too_large_or_without_programs_is_refused(
    model: Model, fakes: Fakes, engine_bundle: Bundle
) -> None:
    backend, elsewhere = model._backend, HostDevice()
    pixels = np.zeros((64, 64, 3), np.uint8)
    (far,) = model._prompts.size([CudaArray(elsewhere, pixels)])
    with pytest.raises(ImageError, match="the frame does not lie on the host, where the model runs"):
        encode_images(backend, [far])
    (near,) = model._prompts.size([CudaArray(fakes.device, pixels)])
    large = SizedImage(near.pixels, replace(near.grid, rows=18, cols=18), near.frame)
    with pytest.raises(
        ImageError, match=r"the frame gives 324 patches and the vision engine takes 256 at once: .*"
    ):
        encode_images(backend, [large])
    plain = Fakes(engine_bundle, has_kernels=False)
    with Model(plain.open(), tokens=TOKENS) as other, pytest.raises(BackendError, match="NVRTC is not there"):
        encode_images(other._backend, [near])
