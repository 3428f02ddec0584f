"""Weights that do not fit where they are loaded (case 1), and weights in half precision (case 2)."""

import json
import math
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from benchmarks.misread.judging import Family, Member
from benchmarks.misread.world import Bench, World, listening, make_llama, make_tokenizer, rows, same_answers
from unlearn import NPO, GradientAscent, TrainingOptions, finetune, forget
from unlearn.methods.retrain import Retrain
from unlearn.training.weights import mean_loss
from verify.data.records import Record
from verify.data.sources import load_records
from verify.models.loading import load_model

Tensors = dict[str, torch.Tensor]
MISFIT = r"tensor|weight|shard|adapter|config"
COUNTED = r"(?=.*(tensor|weight))(?=.*\d)"
"""Words of a refusal that says how many tensors do not fit."""
WRAPPINGS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "model.")
"""What wrappers put in front of the names of parameters."""
PART = {"every tensor": 1.0, "half of the tensors": 0.5, "one tensor": 0.0}


def changed(folder: Path, source: Path, change: Callable[[Tensors], Tensors]) -> Path:
    """A copy of a model or adapter folder with other tensors in it."""
    shutil.copytree(source, folder)
    (file,) = folder.glob("*.safetensors")
    tensors = change(load_file(file))
    file.unlink()
    save_file({name: value.clone().contiguous() for name, value in tensors.items()}, file, metadata={"format": "pt"})
    return folder


def configured(folder: Path, source: Path, name: str = "config.json", **settings: Any) -> Path:
    """A copy of a folder with other settings in its configuration."""
    shutil.copytree(source, folder)
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**content, **settings}))
    return folder


def answering(world: World, name: str) -> Callable[[Any], bool]:
    """Return whether loaded models answer as the one of that name did before it was saved, and have the same digest."""

    def right(found: Any) -> bool:
        return all(same_answers(one.model, world.answers[name]) for one in found) and len({one.digest for one in found}) == 1

    return right


def twice(folder: Path) -> Callable[[], Any]:
    return lambda: [load_model(folder), load_model(folder)]


def some(names: Iterable[str], share: float, draw: Random) -> set[str]:
    """At least one of the names."""
    listed = sorted(names)
    return set(draw.sample(listed, max(1, round(share * len(listed)))))


def renamed(of: str) -> Callable[[Bench], Iterable[Member]]:
    """Tensors of a model or an adapter under the names that a wrapper gives them."""

    def members(at: Bench) -> Iterable[Member]:
        source = getattr(at.world, of)
        for number, wrapping in enumerate(WRAPPINGS):
            for part, share in PART.items():
                inner = "base_model.model." if of == "adapter" else ""

                def change(tensors: Tensors, share: float = share, inner: str = inner, wrapping: str = wrapping) -> Tensors:
                    chosen = some(tensors, share, at.draw)
                    return {(inner + wrapping + n.removeprefix(inner) if n in chosen else n): v for n, v in tensors.items()}

                place = changed(at.folder / f"{number}-{share}", source, change)
                yield Member(f"{wrapping} before {part}", twice(place), answering(at.world, of), COUNTED)

    return members


def lost(of: str) -> Callable[[Bench], Iterable[Member]]:
    """Tensors that are not in the file."""

    def members(at: Bench) -> Iterable[Member]:
        for number in range(6):

            def change(tensors: Tensors, number: int = number) -> Tensors:
                chosen = some(tensors, number / 6, at.draw)
                return {name: value for name, value in tensors.items() if name not in chosen} or {"other": torch.zeros(1)}

            place = changed(at.folder / str(number), getattr(at.world, of), change)
            yield Member(f"{number} sixths of them, at least one", twice(place), None, COUNTED)

    return members


def left_over(of: str) -> Callable[[Bench], Iterable[Member]]:
    """Tensors for which the model has no place."""

    def members(at: Bench) -> Iterable[Member]:
        for number in range(6):

            def change(tensors: Tensors, number: int = number) -> Tensors:
                copied = some([name for name in tensors if ".layers.1." in name], number / 6, at.draw)
                return {**tensors, **{name.replace(".layers.1.", f".layers.{2 + number}."): tensors[name] for name in copied}}

            place = changed(at.folder / str(number), getattr(at.world, of), change)
            yield Member(f"{number} sixths of a further layer, at least one tensor", twice(place), None, COUNTED)

    return members


def other_shape(of: str) -> Callable[[Bench], Iterable[Member]]:
    """Tensors of another shape."""

    def members(at: Bench) -> Iterable[Member]:
        for number in range(6):

            def change(tensors: Tensors, number: int = number) -> Tensors:
                chosen = some([name for name, value in tensors.items() if value.ndim == 2], number / 6, at.draw)
                return {
                    n: (v[:-1] if number % 2 else torch.cat([v, v[:, :1]], 1)) if n in chosen else v for n, v in tensors.items()
                }

            place = changed(at.folder / str(number), getattr(at.world, of), change)
            yield Member(f"{number} sixths of the matrices, at least one", twice(place), None, MISFIT)

    return members


def not_finished(at: Bench) -> Iterable[Member]:
    """A weights file that a copy or a download left unfinished."""
    for source in (at.world.base, at.world.adapter):
        contents = {"cut off": None, "empty": b"", "a pointer": b"version https://git-lfs.github.com/spec/v1\n", "HTML": b"<html>"}
        for what, content in contents.items():
            shutil.copytree(source, place := at.folder / f"{source.name}-{what}")
            (file,) = place.glob("*.safetensors")
            whole = file.read_bytes()
            file.write_bytes(whole[: at.draw.randrange(len(whole) // 2, len(whole))] if content is None else content)
            yield Member(f"{source.name}, {what}", twice(place), None, MISFIT)


def sharded(world: World) -> Path:
    """A model in several files."""
    if not (world.folder / "sharded").exists():
        world.saved(make_llama(3), "sharded", max_shard_size="40KB")
    return world.folder / "sharded"


def shards(at: Bench) -> Iterable[Member]:
    """Shards that are lost, another's, or half copied; and a single file beside them."""
    source = sharded(at.world)
    names = sorted(path.name for path in source.glob("*.safetensors"))
    yield Member("all there", twice(source), answering(at.world, "sharded"))
    for number, name in enumerate(at.draw.sample(names, 3)):
        shutil.copytree(source, place := at.folder / f"lost-{number}")
        (place / name).unlink()
        yield Member(f"shard {names.index(name) + 1} lost", twice(place), None, MISFIT)
        shutil.copytree(source, place := at.folder / f"other-{number}")
        shutil.copy(source / names[(names.index(name) + 1) % len(names)], place / name)
        yield Member(f"shard {names.index(name) + 1} is a copy of the next", twice(place), None, MISFIT)
        shutil.copytree(source, place := at.folder / f"cut-{number}")
        (place / name).write_bytes((place / name).read_bytes()[:-40])
        yield Member(f"shard {names.index(name) + 1} cut off", twice(place), None, MISFIT)


def stale(at: Bench) -> Iterable[Member]:
    """A single file of other weights beside an index and its shards, so that the model is ambiguous."""
    for seed in at.draw.sample(range(10, 99), 3):
        shutil.copytree(sharded(at.world), place := at.folder / str(seed))
        save_file(dict(make_llama(seed).state_dict()), place / "model.safetensors", metadata={"format": "pt"})
        yield Member("weights of another seed", twice(place), None, MISFIT)
    shutil.copytree(sharded(at.world), place := at.folder / "cut")
    (place / "model.safetensors").write_bytes(b"")
    yield Member("an empty file", twice(place), None, MISFIT)


def configurations(at: Bench) -> Iterable[Member]:
    """A configuration that describes other weights than lie beside it."""
    for name, value in {
        "num_hidden_layers": 1,
        "hidden_size": 64,
        "intermediate_size": 128,
        "vocab_size": 512,
        "num_key_value_heads": 4,
        "tie_word_embeddings": True,
        "attention_bias": True,
        "mlp_bias": True,
    }.items():
        # A head of its own in the file may win over a configuration that says it is the embedding.
        right = answering(at.world, "base") if name == "tie_word_embeddings" else None
        yield Member(f"{name} = {value}", twice(configured(at.folder / name, at.world.base, **{name: value})), right, MISFIT)
    place = configured(at.folder / "deeper", at.world.base, num_hidden_layers=at.draw.randrange(3, 6))
    yield Member("more layers", twice(place), None, MISFIT)
    tied = at.world.saved(make_llama(4, tie_word_embeddings=True), "tied")
    yield Member(
        "a tied head said to be its own", twice(configured(at.folder / "own", tied, tie_word_embeddings=False)), None, MISFIT
    )


def excepted(at: Bench) -> Iterable[Member]:
    """Tensors that a file may omit or contain without harm: tied heads, and computed buffers."""
    tied = at.world.saved(make_llama(5, tie_word_embeddings=True), "tied-2")
    yield Member("a tied head, stored once", twice(tied), answering(at.world, "tied-2"))
    again = changed(at.folder / "both", tied, lambda found: {**found, "lm_head.weight": found["model.embed_tokens.weight"].clone()})
    yield Member("a tied head, stored twice", twice(again), answering(at.world, "tied-2"))
    for layers in (1, 2):
        buffers = {f"model.layers.{n}.self_attn.rotary_emb.inv_freq": torch.rand(4) for n in range(layers)}
        place = changed(at.folder / f"buffers-{layers}", at.world.base, lambda found, more=buffers: {**found, **more})  # type: ignore[misc]
        yield Member(f"rotary frequencies of {layers} layers, as old files have them", twice(place), answering(at.world, "base"))
    yield Member("an adapter as it was saved", twice(at.world.adapter), answering(at.world, "adapter"))
    yield Member("a model as it was saved", twice(at.world.base), answering(at.world, "base"))


def answering_digests(at: Bench) -> Iterable[Member]:
    """A digest identifies the model that answers: another base, or one different number, is another model."""
    digest = load_model(at.world.adapter).digest

    def other(place: Path, **named: Any) -> Callable[[], str]:
        return lambda: load_model(place, **named).digest

    def differs(found: str) -> bool:
        return found != digest

    for seed in at.draw.sample(range(20, 99), 3):
        one = at.world.saved(make_llama(seed), f"seed-{seed}")
        yield Member("weights of another seed", other(one), differs)
        bumped = changed(at.folder / f"bumped-{seed}", at.world.adapter, lambda found, by=seed: _bumped(found, by))  # type: ignore[misc]
        yield Member("one number of the adapter changed", other(bumped), differs)
    yield Member("on another base", other(at.world.adapter, base=at.world.saved(make_llama(9), "base-9")), differs, "base")
    for edit in ({"lora_alpha": 64}, {"use_rslora": True}, {"lora_alpha": at.draw.randint(65, 99)}):
        scaled = Path(shutil.copytree(at.world.adapter, at.folder / f"scaled-{len(list(at.folder.iterdir()))}"))
        settings = json.loads((scaled / "adapter_config.json").read_text())
        (scaled / "adapter_config.json").write_text(json.dumps({**settings, **edit}))
        yield Member(f"the adapter scaled otherwise ({', '.join(edit)})", other(scaled), differs)
    yield Member("twice the same", other(at.world.adapter), lambda found: found == digest)
    yield Member("the base alone", other(at.world.base), differs)


def _bumped(tensors: Tensors, by: int) -> Tensors:
    name = sorted(tensors)[by % len(tensors)]
    tensors[name].view(-1)[by % tensors[name].numel()] += 1e-3
    return tensors


HALF: dict[str, torch.dtype] = {"bfloat16": torch.bfloat16, "float16": torch.float16}
NEAR = (0.5, 1.5)
"""What counts as the same training: the change of the loss in half precision as a share of that in float32."""


def half_precision(at: Bench) -> Iterable[Member]:
    """Training of weights stored in half precision has the same effect as in float32, or a warning is given."""
    people = load_records(rows(16))
    for name, dtype in HALF.items():
        model: Any = make_llama(6).to(dtype)
        for stored in (name, "float32"):
            model.to(getattr(torch, stored)).save_pretrained(at.folder / f"{name}-{stored}")
            make_tokenizer().save_pretrained(at.folder / f"{name}-{stored}")
        for verb, run in VERBS.items():

            def moved(name: str = name, verb: str = verb, run: Any = run) -> tuple[float, float, str]:
                return _moved(at.folder, name, verb, run, people)

            yield Member(
                f"{verb} of {name} weights",
                moved,
                lambda found: NEAR[0] <= found[0] <= NEAR[1] or "WARNING" in found[2],
                "float32|dtype",
            )


def _moved(folder: Path, name: str, verb: str, run: Callable[..., Any], people: list[Record]) -> tuple[float, float, str]:
    """Return the change of the loss in half precision as a share of that in float32, the latter, and all warnings."""
    change = {}
    with listening() as said:
        for stored in ("float32", name):
            source, output = folder / f"{name}-{stored}", folder / f"{verb}-{name}-{stored}"
            run(source, output)
            before, after = (mean_loss(load_model(place, dtype="float32"), people[:8]) for place in (source, output))
            change[stored] = after - before
    assert math.isfinite(change["float32"])
    assert abs(change["float32"]) > 1e-4, "the setting is too weak to tell anything"
    return change[name] / change["float32"], change["float32"], said.getvalue()


def _options(**changes: Any) -> TrainingOptions:
    return TrainingOptions(batch_size=4, epochs=4, **changes)


VERBS: dict[str, Callable[[Path, Path], Any]] = {
    "train": lambda model, output: finetune(model, rows(16), output_dir=output, options=_options(learning_rate=2e-5)),
    "npo": lambda model, output: forget(
        model, NPO(), forget_set=rows(8), retain_set=rows(16)[8:], output_dir=output, options=_options(learning_rate=2e-5)
    ),
    "gradient ascent": lambda model, output: forget(
        model, GradientAscent(), forget_set=rows(8), output_dir=output, options=_options(learning_rate=2e-5)
    ),
    "retrain": lambda model, output: forget(
        model, Retrain(), base=model, forget_set=rows(4), data=rows(16), output_dir=output, options=_options(learning_rate=2e-5)
    ),
}

FAMILIES = (
    Family(1, "an adapter's tensors under a wrapper's names", renamed("adapter")),
    Family(1, "a model's tensors under a wrapper's names", renamed("base")),
    Family(1, "tensors of an adapter are missing", lost("adapter")),
    Family(1, "tensors of a model are missing", lost("base")),
    Family(1, "tensors of an adapter are left over", left_over("adapter")),
    Family(1, "tensors of a model are left over", left_over("base")),
    Family(1, "tensors of an adapter have another shape", other_shape("adapter")),
    Family(1, "tensors of a model have another shape", other_shape("base")),
    Family(1, "a weights file that is not whole", not_finished),
    Family(1, "a model in several files", shards),
    Family(1, "a single file beside an index and its shards", stale),
    Family(1, "a configuration of other weights", configurations, quick=4),
    Family(1, "tied heads and computed buffers", excepted, quick=4),
    Family(1, "a digest of what answers", answering_digests, quick=1),
    Family(2, "whole weights stored in half precision", half_precision, quick=0),
)
