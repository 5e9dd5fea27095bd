import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import models
import pretrained
from models import vit
from registry import UserError

SIZE, PATCH, WIDTH, HEADS, DEPTH, CLASSES = 16, 4, 32, 4, 2, 7
TOKENS = (SIZE // PATCH) ** 2


@functools.cache
def small(distilled=False, **options):
    """(model, variables, images) of a ViT of 2 blocks; weights large enough for the attention to matter."""
    shape = {"width": WIDTH, "heads": HEADS, "depth": DEPTH, "stages": 2, "patch_size": PATCH, **options}
    model = models.create("ViT_Ti", CLASSES, distilled=distilled, **shape)
    images = np.random.RandomState(3).standard_normal((2, SIZE, SIZE, 3)).astype(np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    random = np.random.RandomState(4)
    variables = jax.tree.map(lambda x: 0.4 * random.standard_normal(x.shape).astype(np.float32), shapes)
    return model, variables, images


def torch_vit(distilled):
    """timm's module tree, written out again in PyTorch."""
    torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
    nn = torch.nn

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, x):
            q, k, v = (
                part.unflatten(2, (HEADS, WIDTH // HEADS)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=2)
            )
            self.map = torch.softmax(q @ k.transpose(2, 3) / (WIDTH // HEADS) ** 0.5, dim=-1)
            if self.map.requires_grad:
                self.map.retain_grad()
            return self.proj((self.map @ v).transpose(1, 2).flatten(2))

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(WIDTH, eps=1e-6), nn.LayerNorm(WIDTH, eps=1e-6)
            self.attn = Attention()
            self.mlp = nn.ModuleDict({"fc1": nn.Linear(WIDTH, 4 * WIDTH), "fc2": nn.Linear(4 * WIDTH, WIDTH)})

        def forward(self, x):
            x = x + self.attn(self.norm1(x))
            return x + self.mlp["fc2"](nn.functional.gelu(self.mlp["fc1"](self.norm2(x))))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, WIDTH, PATCH, PATCH)})
            self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
            if distilled:
                self.dist_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
                self.head_dist = nn.Linear(WIDTH, CLASSES)
            self.pos_embed = nn.Parameter(torch.zeros(1, 1 + distilled + TOKENS, WIDTH))
            self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
            self.norm, self.head = nn.LayerNorm(WIDTH, eps=1e-6), nn.Linear(WIDTH, CLASSES)

        def forward(self, images):
            x = self.patch_embed["proj"](images).flatten(2).transpose(1, 2)
            extra = [self.cls_token, self.dist_token] if distilled else [self.cls_token]
            x = torch.cat([*(t.expand(len(x), -1, -1) for t in extra), x], dim=1) + self.pos_embed
            for block in self.blocks:
                x = block(x)
            x = self.norm(x)
            return (self.head(x[:, 0]) + self.head_dist(x[:, 1])) / 2 if distilled else self.head(x[:, 0])

    return torch, Net()


@pytest.mark.parametrize("distilled", [False, True])
def test_logits_and_attention_gradients_are_those_of_a_pytorch_network_with_timms_names(distilled):
    model, variables, images = small(distilled)
    torch, net = torch_vit(distilled)
    state = pretrained.to_torch(model, variables)
    net.load_state_dict({name: torch.tensor(value) for name, value in state.items()})  # strict: every name and shape
    back = pretrained.from_torch(model, state, images.shape[1:])
    jax.tree.map(np.testing.assert_array_equal, back["params"], dict(variables["params"]))
    expected = net(torch.tensor(images.transpose(0, 3, 1, 2)))
    expected[:, 2].sum().backward()

    @jax.jit
    def run(variables, images):
        outputs, _ = models.forward(model, variables, images, gradient_taps=("attention1", "attention2"))
        cotangent = jnp.zeros_like(outputs.logits).at[:, 2].set(1.0)
        return outputs, outputs.gradients(cotangent)

    outputs, gradients = run(variables, images)
    np.testing.assert_allclose(outputs.logits, expected.detach().numpy(), rtol=1e-4, atol=1e-4)
    for number, block in enumerate(net.blocks, start=1):
        found, theirs = gradients[f"attention{number}"], block.attn.map
        np.testing.assert_allclose(outputs.features[f"attention{number}"], theirs.detach(), rtol=1e-4, atol=1e-5)
        assert np.abs(found).max() > 1e-4
        np.testing.assert_allclose(found, theirs.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "plain", "distilled"),
    [("ViT_Ti", 5_717_416, 5_910_800), ("ViT_S", 22_050_664, 22_436_432), ("ViT_B", 86_567_656, 87_338_192)],
)
def test_number_of_parameters_is_the_published_one(name, plain, distilled):
    for option, expected in ((False, plain), (True, distilled)):
        model = models.create(name, 1000, distilled=option)
        variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
        assert sum(x.size for x in jax.tree.leaves(variables)) == expected


def test_taps_are_tokens_and_attention_from_the_input_to_the_classifier():
    model, variables, images = small()
    shapes = {}

    def run(variables, images):
        outputs = model.apply(variables, images)
        shapes.update({name: x.shape for name, x in outputs.features.items()})  # jax sorts a dict's keys
        return outputs

    outputs = jax.eval_shape(run, variables, images)
    tokens, attention = (2, 1 + TOKENS, WIDTH), (2, HEADS, 1 + TOKENS, 1 + TOKENS)
    qkv = (2, 1 + TOKENS, 3 * WIDTH)
    assert list(shapes.items()) == [
        ("stem", tokens),
        ("qkv1", qkv),
        ("attention1", attention),
        ("block1", tokens),
        ("stage1", tokens),
        ("qkv2", qkv),
        ("attention2", attention),
        ("block2", tokens),
        ("stage2", tokens),
        ("embedding", (2, WIDTH)),
    ]
    assert outputs.logits.shape == (2, CLASSES)


@pytest.mark.parametrize(
    ("depth", "stages", "ends"), [(12, 4, [3, 6, 9, 12]), (12, 12, list(range(1, 13))), (5, 3, [2, 3, 5])]
)
def test_stages_end_at_equal_distances(depth, stages, ends):
    model = models.create("ViT_Ti", 3, width=8, heads=2, depth=depth, stages=stages, patch_size=8)
    order = []

    def run(key, x):
        order[:] = model.init_with_output(key, x)[0].features
        return ()

    jax.eval_shape(run, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    taps = [name for name in order if name.startswith(("attention", "stage"))]
    found = [sum(n.startswith("attention") for n in taps[: i + 1]) for i, n in enumerate(taps) if n.startswith("stage")]
    assert found == ends


@pytest.mark.parametrize("distilled", [False, True])
def test_attention_rows_sum_to_one_and_the_head_reads_the_embedding(distilled):
    model, variables, images = small(distilled)
    outputs = jax.jit(lambda v, x: models.forward(model, v, x)[0])(variables, images)
    attention = np.asarray(outputs.features["attention2"])
    np.testing.assert_allclose(attention.sum(-1), 1.0, rtol=1e-5)
    assert attention.std() > 0.01
    np.testing.assert_allclose(outputs.classify(outputs.features["embedding"]), outputs.logits, rtol=1e-5, atol=1e-5)
    if distilled:
        one, other = (np.asarray(outputs.features[name]) for name in ("class_logits", "distill_logits"))
        assert np.abs(one - other).max() > 0.1
        np.testing.assert_allclose(outputs.logits, (one + other) / 2, rtol=1e-6)
        train = jax.jit(lambda v, x: models.forward(model, v, x, train=True)[0])(variables, images)
        np.testing.assert_allclose(train.logits, outputs.logits, rtol=1e-5, atol=1e-5)


def test_a_token_map_is_the_image_again():
    grid = jnp.arange(2 * 6 * 3, dtype=jnp.float32).reshape(1, 2, 6, 3)
    tokens = jnp.concatenate([jnp.full((1, 2, 3), -1.0), grid.reshape(1, 12, 3)], axis=1)
    np.testing.assert_array_equal(vit.token_map(tokens, 2, (2, 6)), grid)
    assert vit.token_map(tokens[:, :-3], 2).shape == (1, 3, 3, 3)
    with pytest.raises(ValueError, match="12 patch tokens"):
        vit.token_map(tokens, 2)


def test_a_stage_sees_the_patch_where_it_is():
    model, variables, images = small()
    stem = jax.jit(lambda x: model.apply(variables, x).features["stem"])
    changed = images.copy()
    changed[:, 4:8, 8:12] += 1.0  # patch (1, 2)
    difference = vit.token_map(jnp.abs(stem(changed) - stem(images)), model.extra_tokens).sum((0, 3))
    assert difference[1, 2] > 0.1
    assert float(difference.sum()) == pytest.approx(float(difference[1, 2]))


@pytest.mark.parametrize(("side", "patch"), [(8, 1), (28, 2), (32, 4), (64, 8), (96, 8), (224, 16), (384, 16)])
def test_the_patch_follows_from_the_image(side, patch):
    assert vit.default_patch(side) == patch
    assert side % patch == 0


def test_an_image_of_another_size_is_refused_with_both_shapes():
    model, variables, _ = small()
    with pytest.raises(UserError, match=r"\(1, 17, 32\).*\(1, 26, 32\)"):
        model.apply(variables, jnp.zeros((1, 20, 20, 3)))
    with pytest.raises(UserError, match="18 x 18 pixels do not divide into patches of 4"):
        model.apply(variables, jnp.zeros((1, 18, 18, 3)))
    sized = models.create("ViT_Ti", 2, image_size=32)
    with pytest.raises(UserError, match="32 x 32 pixels; got 16 x 16"):
        jax.eval_shape(sized.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    with pytest.raises(UserError, match="'stages' must be from 1 to the depth of 12"):
        jax.eval_shape(models.create("ViT_Ti", 2, stages=13).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


def test_initial_weights_have_timms_distributions():
    model = models.create("ViT_Ti", 10, depth=1, stages=1, patch_size=16)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    flat = {"/".join(path): np.asarray(x) for path, x in traverse_util.flatten_dict(params).items()}
    for name, value in flat.items():
        if name.startswith("patch_embed"):
            bound = (16 * 16 * 3) ** -0.5 if name.endswith("kernel") else 0.0
            assert np.abs(value).max() <= bound
            assert value.std() == pytest.approx(bound / 3**0.5, rel=0.02)
        elif name.endswith("bias"):
            assert not value.any(), name
        elif name.endswith("scale"):
            assert (value == 1).all(), name
        else:
            assert value.std() == pytest.approx(0.02, rel=5 / value.size**0.5), name


def test_bfloat16_computes_in_bfloat16_and_keeps_the_rest_float32():
    model, variables, images = small()
    low = model.clone(dtype=jnp.bfloat16)
    outputs = jax.jit(low.apply)(variables, images)
    kinds = {name: x.dtype.name for name, x in outputs.features.items()}
    assert kinds.pop("embedding") == "float32"
    assert set(kinds.values()) == {"bfloat16"}
    assert outputs.logits.dtype == jnp.float32
    high = np.asarray(jax.jit(model.apply)(variables, images).logits)
    assert 0 < np.abs(outputs.logits - high).max() < 0.1 * np.abs(high).max()
