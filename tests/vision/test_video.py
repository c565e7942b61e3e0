import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageFilter

from lora_studio.core.images import ImageError
from lora_studio.core.project import Plan, Project
from lora_studio.steps import gathering
from lora_studio.steps.sources.config import SourceConfig
from lora_studio.vision import video
from tests.conftest import draw_picture

RATE = 10


def scene(seed: int) -> Image.Image:
    return Image.open(io.BytesIO(draw_picture(seed, (320, 240)))).convert("RGB")


def film(path: Path, pictures: list[Image.Image]) -> Path:
    """A video of the pictures, ten a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 320, 240, "yuv420p", 4_000_000
        stream.time_base = Fraction(1, RATE)
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())
    return path


def soft(picture: Image.Image) -> Image.Image:
    return picture.filter(ImageFilter.GaussianBlur(4))


def which(frame: video.Frame, scenes: list[Image.Image]) -> int:
    """The scene that a frame is from."""
    return int(np.argmin([np.abs(np.asarray(one).astype(float) - frame.rgb).mean() for one in scenes]))


@pytest.fixture
def scenes() -> list[Image.Image]:
    return [scene(seed) for seed in (1, 2, 3)]


def test_each_scene_gives_its_sharpest_frame_and_none_twice(tmp_path, scenes):
    pictures = [soft(one) if n not in (4, 5) else one for one in (*scenes, scenes[0]) for n in range(10)]
    found = list(video.frames(film(tmp_path / "a.mp4", pictures), 1.0, 50))
    assert [which(frame, scenes) for frame in found] == [0, 1, 2]  # the first scene comes again and is not taken twice
    assert all(0.35 <= frame.seconds % 1 <= 0.55 for frame in found), [frame.seconds for frame in found]


def test_with_a_limit_the_frames_come_from_all_of_the_video(tmp_path):
    scenes = [scene(seed) for seed in range(8)]
    found = list(video.frames(film(tmp_path / "a.mp4", [one for one in scenes for _ in range(6)]), 0.0, 4))
    assert len(found) == 4
    assert which(found[0], scenes) <= 1 and which(found[-1], scenes) >= 6


def test_frames_that_look_alike_are_taken_once(tmp_path, scenes):
    found = list(video.frames(film(tmp_path / "a.mp4", [scenes[0]] * 40), 0.5, 50))
    assert len(found) == 1


def test_a_file_that_is_no_video_and_a_broken_one_are_refused(tmp_path, scenes):
    (tmp_path / "text.mp4").write_text("hello")
    (tmp_path / "empty.mp4").write_bytes(b"")
    whole = film(tmp_path / "a.mkv", [scenes[0]] * 20).read_bytes()
    (tmp_path / "head.mkv").write_bytes(whole[:200])
    for name in ("text.mp4", "empty.mp4", "head.mkv"):
        with pytest.raises(ImageError):
            list(video.frames(tmp_path / name, 1.0, 5))


def test_a_stop_ends_the_reading(tmp_path, scenes):
    path = film(tmp_path / "a.mp4", [one for one in scenes for _ in range(10)])
    assert list(video.frames(path, 0.5, 50, lambda: True)) == []


def test_videos_of_a_folder_are_gathered_and_the_broken_one_is_named(tmp_path, scenes):
    folder = tmp_path / "films"
    folder.mkdir()
    film(folder / "good.mp4", [one for one in scenes for _ in range(10)])
    (folder / "bad.mp4").write_text("hello")
    project = Project.create(tmp_path / "projects", Plan(name="x"))
    result = gathering.gather(project, SourceConfig(kind="video", paths=(str(folder),), seconds=0.5))
    assert result.added == 3 and [one.file for one in result.refused] == ["bad.mp4"]
    images = project.images()
    assert all(image.name.startswith("good 00m0") and image.extension == ".png" for image in images)
    assert images[0].source == str(folder / "good.mp4")
    again = gathering.gather(project, SourceConfig(kind="video", paths=(str(folder),), seconds=0.5))
    assert (again.added, again.already) == (0, 3)
