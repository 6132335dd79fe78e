"""The adapter beside timm itself, for a ViT and two convolutional models. Prints what was found. Needs the peers."""

from __future__ import annotations

import json
import os
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"

import openings  # noqa: F401  before whatever imports torchvision

# isort: split
import timm
import torch

from diptych.base.errors import UserError
from diptych.building.build import build
from diptych.model.pretrained import start_from
from diptych.towers.clip import CLIP
from diptych.towers.text import CBOW
from diptych.towers.timm_tower import TimmTower, command
from diptych.training.finetune import finetune

found = {}
size = 64
for name in ("vit_tiny_patch16_224.augreg_in21k", "resnet18.a1_in1k", "convnext_atto.d2_in1k"):
    torch.manual_seed(0)
    tower = TimmTower(name, size, 12).eval()
    given = {"img_size": size} if name.startswith("vit") else {}
    peer = timm.create_model(name, num_classes=0, **given).eval()
    peer.load_state_dict(tower.trunk.state_dict())
    images = torch.randn(2, 3, size, size)
    model = CLIP(tower, CBOW(12, width=8, vocab_size=20), mean=tower.mean, std=tower.std)
    above = model.layers_above()
    said = finetune(model, image=1)
    trained = sorted({n.split(".")[2] for n, p in model.named_parameters() if p.requires_grad and ".trunk." in n})
    classes = timm.create_model(name, num_classes=7, **given)
    file = tempfile.mkdtemp() + "/weights.pth"
    torch.save(classes.state_dict(), file)
    notes = start_from(model, file, "image")
    arrived = all(torch.equal(v, classes.state_dict()[k]) for k, v in tower.trunk.state_dict().items())
    try:
        start_from(CLIP(tower, model.text, mean=(0.1, 0.2, 0.3)), file, "image")
        other = "not refused"
    except UserError as error:
        other = str(error)
    with torch.device("meta"):
        hollow = TimmTower(name, size, 12)
    found[name] = {
        "equal": torch.equal(TimmTower.forward(tower, images).detach(), tower.proj(tower.trunk(images)).detach())
        and tower(images).shape == (2, 12),
        "above": above.keys() == {n for n, _ in model.named_parameters()},
        "layers": max(v for k, v in above.items() if k.startswith("image.")),
        "trained": trained,
        "arrived": arrived,
        "notes": notes,
        "other": other,
        "meta": all(p.is_meta for p in hollow.parameters()),
        "command": command(name),
        "peer": (peer(images) - 0).shape[-1] == tower.proj.in_features,
    }


def refused(**given):
    try:
        build({"_target_": "diptych.towers.timm_tower.TimmTower", "image_size": 64, "embed_dim": 8, **given})
    except UserError as error:
        return str(error)
    return "built"


# As `diptych.load` builds it: without memory, then the weights. What timm counts must be there again.
swin = TimmTower("swin_tiny_patch4_window7_224.ms_in1k", 224, 12).eval()
with torch.device("meta"):
    again = TimmTower("swin_tiny_patch4_window7_224.ms_in1k", 224, 12).eval()
again.to_empty(device="cpu").load_state_dict(swin.state_dict())
picture = torch.randn(1, 3, 224, 224)
found["from meta"] = torch.equal(swin(picture), again(picture))
foreign = ["hf-hub:timm/resnet18.a1_in1k", "hf_hub:timm/resnet18", "local-dir:/tmp/x", "timm/resnet18", "resnet81"]
found["refused"] = [
    *(refused(name=name) for name in (*foreign, "../x", "", 7, None)),
    refused(name="resnet18.no_such_tag"),
    refused(name="resnet18", pretrained=True),
]
print(json.dumps(found))
