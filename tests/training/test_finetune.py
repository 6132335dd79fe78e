"""What is frozen takes no gradient, costs no backward pass, keeps its statistics; the rest trains as before."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from diptych.base.errors import UserError
from diptych.loss import ContrastiveLoss
from diptych.model.cost import image_flops, training_flops
from diptych.towers.clip import CLIP
from diptych.towers.resnet import BasicBlock, ModifiedResNet
from diptych.towers.text import CBOW, TextTransformer
from diptych.towers.vit import VisionTransformer
from diptych.training.finetune import finetune
from diptych.training.optim import adamw


def clip(image: nn.Module | None = None) -> CLIP:
    torch.manual_seed(0)
    text = TextTransformer(12, width=16, layers=2, heads=2, context_length=8, vocab_size=20)
    return CLIP(image or VisionTransformer(16, 8, width=16, layers=3, embed_dim=12, heads=2), text)


def resnet() -> nn.Module:
    return ModifiedResNet(16, [1, 1], 8, 12, block=BasicBlock, stem_pool=False)


def images() -> Tensor:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def tokens() -> Tensor:
    return torch.tensor([[18, 1, 2, 19], [18, 3, 19, 0], [18, 4, 5, 19], [18, 19, 0, 0]])


def loss(model: CLIP) -> Tensor:
    return ContrastiveLoss()(*model(images(), tokens()))


def trained(model: CLIP) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_everything_is_trained_unless_said() -> None:
    model = clip()
    assert finetune(model) == []
    assert trained(model) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("make", [lambda: None, resnet])
def test_a_locked_image_tower_leaves_no_graph_and_no_backward_pass(make: object) -> None:
    def flops(model: CLIP) -> tuple[int, int]:
        with FlopCounterMode(display=False) as forward:
            value = loss(model)
        with FlopCounterMode(display=False) as backward:
            value.backward()
        return forward.get_total_flops(), backward.get_total_flops()

    whole, locked = clip(make()), clip(make())
    said = finetune(locked, image="none", logit_scale=False)
    text, every = (f"{sum(p.numel() for p in part.parameters()):,}" for part in (locked.text, locked))
    assert said == [f"{text} of {every} parameters are trained (image: none, text: all, logit_scale: false)"]
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        features = locked.encode_image(images(), normalize=True)
    assert features.grad_fn is None and saved == []
    with FlopCounterMode(display=False) as text_alone:
        CLIP.encode_text(whole, tokens()).sum().backward()
    whole.zero_grad()
    with FlopCounterMode(display=False) as text_forward:
        whole.encode_text(tokens())
    text_backward = text_alone.get_total_flops() - text_forward.get_total_flops()
    full, lit = flops(whole), flops(locked)
    assert lit[0] == full[0]
    products = 2 * (2 * 4 * 4 * 12)  # the loss's own: two of 4×12 by 12×4, each for the text's side alone
    assert lit[1] - text_backward == products < full[1] - text_backward
    assert all(p.grad is None for p in locked.image.parameters())


def test_the_rest_gets_the_gradient_it_always_got() -> None:
    whole, some = clip(), clip()
    finetune(some, image=1, text="none", logit_scale=False)
    for model in (whole, some):
        loss(model).backward()
    reference = dict(whole.named_parameters())
    taken = trained(some)
    assert taken == {
        n for n in reference if n.startswith(("image.transformer.resblocks.2.", "image.ln_post", "image.proj"))
    }
    for name, parameter in some.named_parameters():
        if name in taken:
            torch.testing.assert_close(parameter.grad, reference[name].grad, rtol=1e-6, atol=1e-8)
        else:
            assert parameter.grad is None, name


def test_last_blocks_of_every_kind_of_tower() -> None:
    model = CLIP(resnet(), CBOW(12, width=16, vocab_size=20))
    finetune(model, image=1, text=0)
    names = trained(model)
    assert {name.split(".")[1] for name in names if name.startswith("image.")} == {"layer2", "attnpool"}
    assert {name for name in names if name.startswith("text.")} == {
        "text.ln_final.weight", "text.ln_final.bias", "text.text_projection"
    }  # fmt: skip
    finetune(model, image=0, text="all")
    assert {name.split(".")[1] for name in trained(model) if name.startswith("image.")} == {"attnpool"}
    assert "text.token_embedding.weight" in trained(model)  # a second choice replaces the first


def test_frozen_batch_norms_keep_their_statistics_and_nothing_drops_out() -> None:
    model = clip(resnet())
    model.image.layer1[0].bn1 = nn.Sequential(model.image.layer1[0].bn1, nn.Dropout(0.5))
    finetune(model, image=1)
    model.eval()
    model.train()  # as a validation leaves it
    frozen = {n for n, m in model.image.named_modules() if n and not m.training}
    assert {"bn1", "bn3", "layer1", "layer1.0.bn1.1"} <= frozen  # the dropout inside a frozen block too
    assert not {n for n in frozen if n.startswith(("layer2", "attnpool"))}
    before = {n: b.clone() for n, b in model.image.named_buffers()}
    loss(model).backward()
    for name, buffer in model.image.named_buffers():
        assert torch.equal(buffer, before[name]) != name.startswith("layer2"), name


def test_a_frozen_model_in_eval_mode_stays_there() -> None:
    model = clip(resnet()).eval()
    finetune(model, image="none")
    assert not any(module.training for module in model.modules())


def test_the_optimiser_holds_what_is_trained_and_moves_nothing_else() -> None:
    model = clip()
    finetune(model, image="none", logit_scale=False)
    optimizer = adamw(model, lr=0.1, weight_decay=0.5)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.text.parameters())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    loss(model).backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        moved = not torch.equal(parameter, before[name])
        assert moved == name.startswith("text."), name


def test_what_cannot_be_is_refused() -> None:
    for given, message in (
        ({"image": "none", "text": "none", "logit_scale": False}, "leave nothing to train"),
        (
            {"image": 4},
            r"finetune\.image=4 is invalid: take all, none, or .* at most 3",
        ),
        ({"text": -1}, r"finetune\.text=-1"),
        ({"text": "some"}, r"finetune\.text=some"),
        ({"image": True}, r"finetune\.image=True"),
    ):
        with pytest.raises(UserError, match=message):
            finetune(clip(), **given)


def test_a_frozen_tower_costs_its_forward_pass_alone() -> None:
    model = clip()
    whole = training_flops(model)
    finetune(model, image="none")
    assert training_flops(model) == whole - 2 * image_flops(model)
