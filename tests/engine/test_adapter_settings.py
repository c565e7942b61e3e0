"""Each setting of the adapter takes effect; files are saved, refused and gone on from."""

from pathlib import Path
from typing import Any

from lora_studio import torchvision_ops  # noqa: F401  isort: skip
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lora_studio.core.errors import UserError
from lora_studio.engine.adapters import Adapter
from lora_studio.engine.adapters.apply import apply_file
from lora_studio.engine.adapters.delta import by_module, delta
from lora_studio.engine.adapters.layer import operate
from lora_studio.engine.checkpoint import load_lora, save_lora
from lora_studio.engine.config import AdapterConfig
from tests.engine.test_adapter_kinds import KINDS, make, probe, relative, stir
from tests.engine.tiny_family import TinyFamily

KEY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_k"
CONV = "lora_unet_down_blocks_0_resnets_0_conv1"


def ranks(adapter: Adapter) -> dict[str, int]:
    return {name: own["lora_down.weight"].shape[0] for name, own in by_module(adapter.tensors(torch.float32)).items()}


# --- which layers, and how large --------------------------------------------------------------------------------------


def test_layers_reaches_further_from_choice_to_choice() -> None:
    found = [set(make(TinyFamily(), layers=layers).layers) for layers in ("attention", "attention+ff", "all")]
    assert found[0] < found[1] < found[2]
    assert CONV in found[2] - found[1]


def test_include_and_exclude_choose_by_name() -> None:
    adapter = make(TinyFamily(), include=("up_blocks", "text_encoder"), exclude=("attn2", r"layers\.1"))
    names = set(adapter.module_names.values())
    assert any(name.startswith("unet.up_blocks") for name in names)
    assert any(name.startswith("text_encoder.encoder.layers.0") for name in names)
    assert not [name for name in names if "down_blocks" in name or "attn2" in name or "layers.1" in name]


def test_ranks_by_layer_keep_the_strength_and_the_first_that_fits_counts() -> None:
    adapter = make(TinyFamily(), rank=4, alpha=2.0, ranks=("attn2=0", "mid_block=8", "unet=6"))
    for name, rank in ranks(adapter).items():
        module = adapter.module_names[name]
        assert "attn2" not in module
        assert rank == (8 if "mid_block" in module else 6 if module.startswith("unet") else 4), module
        assert adapter.layers[name].scale == 0.5


def test_nothing_left_is_told_with_the_settings_that_did_it() -> None:
    with pytest.raises(UserError, match=r"adapter.include, adapter.exclude leave out all .* layers"):
        make(TinyFamily(), include=("unet",), exclude=("block",))


def test_a_part_that_is_left_out_whole_has_no_group() -> None:
    assert list(make(TinyFamily(), exclude=("text_encoder",)).groups) == ["unet"]


def test_convolutions_have_their_own_rank_and_alpha() -> None:
    adapter = make(TinyFamily(), rank=4, alpha=2.0, conv_rank=6, conv_alpha=1.5)
    assert ranks(adapter)[CONV] == 6 and ranks(adapter)[KEY] == 4
    assert adapter.layers[CONV].scale == 0.25 and adapter.layers[KEY].scale == 0.5
    adapter = make(TinyFamily(), rank=4, alpha=2.0, conv_rank=6)
    assert adapter.layers[CONV].scale == 0.5
    shortcut = "lora_unet_down_blocks_1_resnets_0_conv_shortcut"  # looks at single points: counts as the others
    assert ranks(adapter)[shortcut] == 4


@pytest.mark.parametrize("kind", ["lora", "dora", "loha", "lokr"])
def test_rs_lora_is_folded_into_the_alpha_of_the_file(kind: str) -> None:
    adapter = make(TinyFamily(), kind, layers="attention", rank=4, alpha=2.0, rs_lora=True)
    layer, file = adapter.layers[KEY], adapter.tensors(torch.float16)
    if kind != "lokr":  # whose factors are whole here, and have no rank
        assert file[f"{KEY}.alpha"] == 4.0 and layer.scale == 1.0  # 2 * root of 4; 2 / root of 4


@pytest.mark.parametrize("alpha", [0.1, 3.3])
def test_a_half_precision_file_scales_as_memory_does(alpha: float) -> None:
    adapter = make(TinyFamily(), rank=5, alpha=alpha, rs_lora=True)
    file = adapter.tensors(torch.float16)
    assert float(file[f"{KEY}.alpha"]) / 5 == adapter.layers[KEY].scale


def test_factor_splits_lokr_otherwise() -> None:
    shapes = [make(TinyFamily(), "lokr", factor=factor).tensors(torch.float32) for factor in (-1, 2)]
    assert [tuple(tensors[f"{KEY}.lokr_w1"].shape) for tensors in shapes] == [(4, 4), (2, 2)]


@pytest.mark.parametrize("kind", KINDS)
def test_rank_is_the_size_of_every_kind_but_ia3(kind: str) -> None:
    sizes = [sum(p.numel() for p in make(TinyFamily(), kind, rank=rank).parameters) for rank in (2, 4)]
    assert (sizes[0] == sizes[1]) == (kind == "ia3")


def test_oft_of_blocks_of_one_is_refused() -> None:
    with pytest.raises(UserError, match=r"adapter.rank 1"):
        make(TinyFamily(), "oft", rank=1)


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_halves_the_trained_weights_and_still_begins_as_the_base(kind: str) -> None:
    family = TinyFamily()
    bare = family.answer()
    adapter = make(family, kind, precision="bf16")
    wide = [key for key, p in adapter.named_parameters() if p.dtype != torch.bfloat16]
    assert all(key.endswith("dora_scale") for key in wide)  # rounding that would change the base
    assert torch.equal(family.answer(), bare)
    stir(adapter)
    family.answer().sum().backward()
    assert all(p.grad is not None for p in adapter.parameters)


# --- chance -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", ["dropout", "rank_dropout", "module_dropout"])
@pytest.mark.parametrize("kind", KINDS)
def test_dropout_acts_in_training_only_and_follows_the_seed(kind: str, setting: str) -> None:
    if kind == "ia3" and setting != "module_dropout":
        pytest.skip("(IA)3 has no such dropout")
    family = TinyFamily()
    adapter = stir(make(family, kind, **{setting: 0.5}))
    calm = family.answer()
    assert torch.equal(family.answer(), calm)
    for part in family.parts.values():
        part.train()
    answers = []
    for seed in (1, 1, 2):
        adapter.drop(torch.Generator().manual_seed(seed))
        answers.append(family.answer())
    assert torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[0], answers[2]) and not torch.equal(answers[0], calm)


def test_without_dropout_chance_is_left_alone() -> None:
    adapter = make(TinyFamily())
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    adapter.drop(torch.Generator().manual_seed(1))
    assert torch.equal(torch.rand(1), wanted)


@pytest.mark.parametrize("place", [KEY, CONV])
@pytest.mark.parametrize("setting", ["dropout", "rank_dropout"])
@pytest.mark.parametrize("kind", ["lora", "loha", "glora"])
def test_dropout_is_right_in_the_mean(kind: str, setting: str, place: str) -> None:
    adapter = stir(make(TinyFamily(), kind, **{setting: 0.3}))
    layer = adapter.layers[place].train()
    x = probe(layer.base_layer, 1)
    with torch.no_grad():
        bare = layer.base_layer(x)
        torch.manual_seed(0)
        drawn = torch.stack([layer(x) - bare for _ in range(200)])
        layer.eval()
        assert relative(drawn.mean(0), layer(x) - bare) < 0.25
        assert drawn.std(0).max() > 0


def test_each_picture_loses_its_own_ranks() -> None:
    layer = stir(make(TinyFamily(), rank_dropout=0.5)).layers[KEY].train()
    x = probe(layer.base_layer, 1).expand(4, -1, -1)
    torch.manual_seed(0)
    rows = layer(x)
    assert any(not torch.equal(rows[0], row) for row in rows[1:])
    module = stir(make(TinyFamily(), module_dropout=0.5)).layers[KEY].train()
    rows = module(x)
    assert all(torch.equal(rows[0], row) for row in rows[1:])


def test_a_layer_left_out_is_the_bare_layer() -> None:
    layer = stir(make(TinyFamily(), module_dropout=0.5)).layers[KEY].train()
    x = probe(layer.base_layer)
    torch.manual_seed(0)
    left_out = [torch.equal(layer(x), layer.base_layer(x)) for _ in range(60)]
    assert 15 < sum(left_out) < 45


# --- starts inside the base -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_a_start_inside_the_base_changes_neither_base_nor_answer(init: str) -> None:
    family = TinyFamily()
    bare = family.answer()
    adapter = make(family, init=init)
    assert torch.equal(family.answer(), bare)
    assert all(bool(layer.up.any()) for layer in adapter.layers.values())
    stir(adapter, 0.02)
    trained = family.answer()
    fresh = TinyFamily()
    file = adapter.tensors(torch.float32)
    assert file[f"{KEY}.lora_down.weight"].shape[0] == 8  # twice the rank
    applied = apply_file(fresh.parts, file)
    assert relative(fresh.answer(), trained) < 1e-5
    applied.remove()
    applied = apply_file(fresh.parts, adapter.tensors(torch.float16))
    assert relative(fresh.answer() - bare, trained - bare) < 2e-3  # the small difference, not the large factors
    with adapter.off():
        assert torch.equal(family.answer(), bare)


def test_pissa_begins_with_the_strongest_directions() -> None:
    layer = make(TinyFamily(), init="pissa").layers[CONV]
    matrix = layer.base_layer.weight.flatten(1).double()
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    wanted = u[:, :4] * s[:4] @ v[:4]
    assert relative(layer.scale * (layer.up.flatten(1) @ layer.down.flatten(1)).double(), wanted) < 0.02


def test_pissa_s_gradients_are_those_of_peft() -> None:
    from peft import LoraConfig, inject_adapter_in_model

    family, other = TinyFamily(), TinyFamily()
    layer = make(family, init="pissa", layers="attention").layers[KEY]
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k"
    config = LoraConfig(r=4, lora_alpha=2.0, target_modules=[name], init_lora_weights="pissa")
    inject_adapter_in_model(config, other.part("unet"), adapter_name="x")
    theirs = other.part("unet").get_submodule(name)
    x = probe(layer.base_layer)
    with torch.no_grad():  # the directions are the same up to their sign
        theirs.lora_A["x"].weight.copy_(layer.down)
        theirs.lora_B["x"].weight.copy_(layer.up)
    (layer(x) ** 2).sum().backward()
    (theirs(x) ** 2).sum().backward()
    assert relative(layer(x), theirs(x)) < 1e-3
    assert relative(layer.down.grad, theirs.lora_A["x"].weight.grad) < 1e-2
    assert relative(layer.up.grad, theirs.lora_B["x"].weight.grad) < 1e-2


def test_loftq_needs_a_quantised_base() -> None:
    with pytest.raises(UserError, match=r"loftq .* not quantised"):
        make(TinyFamily(), init="loftq")


class Coarse(nn.Linear):
    """A linear layer that holds its weight in steps of a tenth."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None)
        self.requires_grad_(False)
        self.weight.copy_((layer.weight * 10).round() / 10)
        if layer.bias is not None:
            self.bias.copy_(layer.bias)


def coarse_family() -> TinyFamily:
    family = TinyFamily()
    for name, module in list(family.part("unet").named_modules()):
        if type(module) is nn.Linear and "attn" in name:
            parent, _, own = name.rpartition(".")
            setattr(family.part("unet").get_submodule(parent), own, Coarse(module))
    return family


def test_loftq_mends_what_quantisation_took_and_the_file_is_for_the_original() -> None:
    whole, family = TinyFamily(), coarse_family()
    originals = TinyFamily()
    rough = (family.answer() - whole.answer()).norm()
    config = AdapterConfig(rank=8, alpha=8.0, layers="attention", init="loftq", include=("unet",))
    adapter = Adapter(
        family, config, ["unet"], 0, originals=lambda part, name: originals.part(part).get_submodule(name).weight
    )
    mended = family.answer()
    assert (mended - whole.answer()).norm() < 0.8 * rough
    with adapter.off():
        assert relative(family.answer(), mended) < 1e-6
    file = adapter.tensors(torch.float32)
    assert all(not delta(own, torch.zeros(own["lora_up.weight"].shape[0], own["lora_down.weight"].shape[1])).any()
               for own in by_module(file).values())  # fmt: skip
    stir(adapter, 0.02)
    layer = adapter.layers[KEY]
    x = probe(layer.base_layer)
    by_file = operate(
        layer.base_layer, x, delta(by_module(adapter.tensors(torch.float32))[KEY], layer.base_layer.weight)
    )
    assert relative(layer(x) - layer.bare(x, layer.base_layer(x)), by_file) < 1e-4


# --- files ------------------------------------------------------------------------------------------------------------


def save(path: Path, adapter: Adapter) -> Path:
    save_lora(path, adapter.tensors(torch.float16), {"ss_network_module": adapter.network_module})
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_file_is_read_and_gone_on_from(kind: str, tmp_path: Path) -> None:
    family = TinyFamily()
    adapter = stir(make(family, kind))
    answer = family.answer()
    path = save(tmp_path / "a.safetensors", adapter)
    tensors, _ = load_lora(path)
    assert {key: tensor.shape for key, tensor in tensors.items()} == {
        key: tensor.shape for key, tensor in adapter.tensors(torch.float16).items()
    }
    again = TinyFamily()
    make(again, kind, continue_from=str(path))
    assert relative(again.answer(), answer) < 5e-3  # the file is in half precision


@pytest.mark.parametrize("kind", ["lora", "loha", "glora"])
def test_another_alpha_goes_on_as_strong_as_it_was(kind: str, tmp_path: Path) -> None:
    family = TinyFamily()
    path = save(tmp_path / "a.safetensors", stir(make(family, kind, alpha=2.0)))
    again = TinyFamily()
    make(again, kind, alpha=4.0, continue_from=str(path))
    assert relative(again.answer(), family.answer()) < 5e-3


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"kind": "dora"}, "is of the kind lora, adapter.kind is dora"),
        ({"rank": 8}, "adapter.rank 8"),
        ({"layers": "all"}, "lacks 73 of its layers"),
        ({"include": ("unet",)}, "has 8 others"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_the_reason(
    changes: dict[str, Any], text: str, tmp_path: Path
) -> None:
    path = save(tmp_path / "a.safetensors", stir(make(TinyFamily(), layers="attention")))
    with pytest.raises(UserError, match=text):
        make(TinyFamily(), **{"layers": "attention", "continue_from": str(path), **changes})


def test_a_file_of_another_family_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", stir(make(TinyFamily("sdxl"), layers="attention")))
    with pytest.raises(UserError, match="continue_from"):
        make(TinyFamily(), layers="attention", continue_from=str(path))


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_changes_nothing_is_not_written(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="would be empty"):
        save(tmp_path / "a.safetensors", make(TinyFamily(), kind))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_nor_one_whose_start_lies_in_the_base(init: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="would be empty"):
        save(tmp_path / "a.safetensors", make(TinyFamily(), init=init))


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_that_are_not_finite_are_not_written(kind: str, tmp_path: Path) -> None:
    adapter = stir(make(TinyFamily(), kind))
    with torch.no_grad():
        adapter.parameters[0].view(-1)[0] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        save(tmp_path / "a.safetensors", adapter)


def test_other_values_can_be_saved_in_the_place_of_the_trained_ones() -> None:
    adapter = stir(make(TinyFamily(), "dora"))
    mean = {key: parameter * 0.5 for key, parameter in adapter.named_parameters()}
    file = adapter.tensors(torch.float32, mean)
    assert all(torch.equal(file[key], value) for key, value in mean.items())
    assert f"{KEY}.alpha" in file


def test_a_long_dora_scale_stays_exact_in_half_precision(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", stir(make(TinyFamily(), "dora")))
    assert load_file(path)[f"{KEY}.dora_scale"].dtype == torch.float32


@pytest.mark.parametrize(
    ("kind", "ups"),
    [("lora", {"lora_up.weight"}), ("dora", {"lora_up.weight"}), ("loha", {"hada_w2_a"}), ("lokr", {"lokr_w2"}),
     ("glora", {"a2.weight", "b2.weight"}), ("oft", set()), ("boft", set()), ("ia3", set())],
)  # fmt: skip
def test_the_matrices_that_begin_at_zero_are_known(kind: str, ups: set[str]) -> None:
    adapter = make(TinyFamily(), kind, layers="attention")
    assert {key.partition(".")[2] for key, _ in adapter.named_parameters() if adapter.is_up(key)} == ups
    for key, parameter in adapter.named_parameters():
        assert not adapter.is_up(key) or not parameter.any()


def test_the_kind_is_told_as_other_trainers_tell_it() -> None:
    def told(kind: str, **changes: Any) -> tuple[str, dict[str, str]]:
        adapter = make(TinyFamily(), kind, **changes)
        return adapter.network_module, adapter.network_args

    assert told("lora", layers="attention") == ("networks.lora", {})
    assert told("lora", conv_rank=2) == ("networks.lora", {"conv_dim": "2", "conv_alpha": "1.0"})
    assert told("dora", layers="attention") == ("lycoris.kohya", {"algo": "lora", "dora_wd": "True"})
    assert told("oft") == ("lycoris.kohya", {"algo": "diag-oft"})
    assert told("lokr", layers="attention", factor=8)[1] == {"algo": "lokr", "factor": "8"}


# --- files on a base --------------------------------------------------------------------------------------------------


def test_several_files_lie_on_one_base_and_come_off_in_any_order() -> None:
    family = TinyFamily()
    bare = family.answer()
    one = stir(make(TinyFamily(), "loha")).tensors(torch.float32)
    two = stir(make(TinyFamily(), "lora")).tensors(torch.float32)
    first = apply_file(family.parts, one)
    alone = family.answer()
    second = apply_file(family.parts, two)
    first.remove()
    only_second = family.answer()
    second.remove()
    assert torch.equal(family.answer(), bare)
    again = apply_file(family.parts, two)
    assert torch.equal(family.answer(), only_second) and not torch.equal(alone, only_second)
    again.remove()
    again.remove()


@pytest.mark.parametrize("kind", ["lora", "loha", "oft"])
def test_a_file_of_another_base_is_refused_and_leaves_nothing(kind: str) -> None:
    family = TinyFamily()
    bare = family.answer()
    file = stir(make(TinyFamily(), kind, layers="attention")).tensors(torch.float32)
    wrong = {key: cut(tensor) if key.startswith("lora_te") else tensor for key, tensor in file.items()}
    with pytest.raises(UserError, match=r"lora_te_.*(fit|made for)"):
        apply_file(family.parts, wrong)
    with pytest.raises(UserError, match="does not fit the base"):
        apply_file(family.parts, {"lora_unet_nowhere.lora_up.weight": torch.ones(1, 1)})
    assert torch.equal(family.answer(), bare)


def cut(tensor: Tensor) -> Tensor:
    return tensor[:-1].contiguous() if tensor.dim() else tensor
