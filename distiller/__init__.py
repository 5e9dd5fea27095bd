"""Distillation methods: linen Modules whose call returns a loss. Each method has one file, and one line here.

In the methods' files, "the benchmarks" are the CIFAR-100 code bases RepDistiller and mdistiller (configs/cifar100.py).
"""

from distiller.base import Distiller
from distiller.compose import Composition
from options import check, without_effect
from registry import Registry, UserError

__all__ = ["Composition", "Distiller", "check_options", "create", "ignored", "names", "registry"]

registry = Registry(
    "distiller",
    {
        "SoftLogits": "distiller.soft_logits:SoftLogits",
        "Logits": "distiller.logits:Logits",
        "DKD": "distiller.dkd:DKD",
        "DIST": "distiller.dist:DIST",
        "NKD": "distiller.nkd:NKD",
        "MLKD": "distiller.mlkd:MLKD",
        "CTKD": "distiller.ctkd:CTKD",
        "SDD": "distiller.sdd:SDD",
        "WKDLogit": "distiller.wkd_logit:WKDLogit",
        "OFA": "distiller.ofa:OFA",
        "TTM": "distiller.ttm:TTM",
        "WTTM": "distiller.ttm:WTTM",
        "RLD": "distiller.rld:RLD",
        "ABKD": "distiller.abkd:ABKD",
        "IKL": "distiller.dkl:IKL",
        "GKL": "distiller.dkl:GKL",
        "SKD": "distiller.skd:SKD",
        "WSLD": "distiller.wsld:WSLD",
        "CRLD": "distiller.crld:CRLD",
        "NormKD": "distiller.normkd:NormKD",
        "DeiT": "distiller.deit:DeiT",
        "AT": "distiller.at:AT",
        "PKT": "distiller.pkt:PKT",
        "RKD": "distiller.rkd:RKD",
        "SP": "distiller.sp:SP",
        "CC": "distiller.cc:CC",
        "IRG": "distiller.irg:IRG",
        "ReviewKD": "distiller.reviewkd:ReviewKD",
        "CRD": "distiller.crd:CRD",
        "DCD": "distiller.dcd:DCD",
        "RRD": "distiller.rrd:RRD",
        "AFD": "distiller.afd:AFD",
        "SRD": "distiller.srd:SRD",
        "VkD": "distiller.vkd:VkD",
        "WKDFeature": "distiller.wkd_feature:WKDFeature",
        "FitNet": "distiller.fitnet:FitNet",
        "NST": "distiller.nst:NST",
        "AB": "distiller.ab:AB",
        "FT": "distiller.ft:FT",
        "FSP": "distiller.fsp:FSP",
        "VID": "distiller.vid:VID",
        "KDSVD": "distiller.kdsvd:KDSVD",
        "OFD": "distiller.ofd:OFD",
        "ND": "distiller.nd:ND",
        "SRRL": "distiller.srrl:SRRL",
        "SimKD": "distiller.simkd:SimKD",
        "DISTPlus": "distiller.dist_plus:DISTPlus",
        "MGD": "distiller.mgd:MGD",
        "ICKD": "distiller.ickd:ICKD",
        "CWD": "distiller.cwd:CWD",
        "NORM": "distiller.norm:NORM",
        "PKD": "distiller.pkd:PKD",
        "FGD": "distiller.fgd:FGD",
        "SemCKD": "distiller.semckd:SemCKD",
        "ViTKD": "distiller.vitkd:ViTKD",
        "MiniLM": "distiller.minilm:MiniLM",
        "ExpKD": "distiller.exp_kd:ExpKD",
        "E2KD": "distiller.e2kd:E2KD",
        "CATKD": "distiller.cat_kd:CATKD",
        "LwM": "distiller.lwm:LwM",
        "GradAT": "distiller.grad_at:GradAT",
        "ExplanationMatch": "distiller.explanation_match:ExplanationMatch",
    },
    elsewhere={
        "kd": "'SoftLogits'",
        "hinton": "'SoftLogits'",
        "st": "'SoftLogits'",
        "hint": "'FitNet'",
        "attention": "'AT'",
        "similarity": "'SP'",
        "correlation": "'CC'",
        "abound": "'AB'",
        "factor": "'FT'",
        "svd": "'KDSVD'",
        "dkl": "'IKL' or 'GKL'",
        "dml": "--transfer Mutual",
        "none": "--transfer Labels",
        "vanilla": "--transfer Labels",
    },
)
names = registry.names
check_options = check


def create(name: str, **options) -> Distiller:
    """Builds a method, or a sum of methods.

    Args:
        name: one of `names()`, or several joined by `+`.
        **options: the method's fields, such as `weight`. For a sum: `ce_weight`, and for each part a dict of the part's
            fields under the part's name (`create("SoftLogits+AT", AT={"weight": 500.0})`). Without `ce_weight` a sum
            takes the smallest `ce_weight` of its parts. A part whose `ce_weight` is below 1 was tuned beside a weak
            label loss.

    Returns:
        A linen Module. `init(key, student, teacher, batch)` returns its variables. `apply(variables, student, teacher,
        batch)` returns (loss, terms). The loss is a float32 scalar, already weighted. `terms` is a dict of named terms
        that sum to the loss.

    Raises:
        UserError: an unknown name or option (the message has the nearest known one); a value of a wrong type or outside
            its limit.
    """
    parts = [part.strip() for part in name.split("+")]
    if len(parts) > 1 and "" in parts:
        raise UserError(f"Distiller '{name}' has nothing on one side of a +. Join methods as in SoftLogits+AT.")
    parts = [registry.check(part) for part in parts]
    if len(parts) == 1:
        own = _mapping(parts[0], options.pop(parts[0], {}))
        return _build(parts[0], {**options, **own})
    if len(set(parts)) < len(parts):
        raise UserError(f"Distiller '{name}' names a method twice. Change its weight instead.")
    for key in options:
        if key != "ce_weight" and key not in parts:
            raise UserError(f"'{name}' has no option '{key}'. Give the part's name: {parts[0]}={{'{key}': ...}}.")
    methods = tuple(_build(part, _mapping(part, options.get(part, {}))) for part in parts)
    own = {"ce_weight": options.get("ce_weight", min(method.ce_weight for method in methods))}
    check(f"option of {name}", Composition, own)
    return Composition(parts=methods, **own)


def ignored(name: str, options: dict) -> dict[str, str]:
    """Finds the options that have no effect on a method or a sum of methods.

    Returns:
        Path of the option ("gamma", or "CC.gamma" in a sum) -> reason.
    """
    parts, found = [part.strip() for part in name.split("+")], {}
    for part in parts:
        own = _renamed(registry.get(part), options.get(part, {}))
        found |= {f"{part}.{key}": reason for key, reason in without_effect(registry.get(part), own).items()}
    if len(parts) == 1:
        own = _renamed(registry.get(name), {key: value for key, value in options.items() if key != name})
        found |= without_effect(registry.get(name), own)
    return found


def _build(name: str, options: dict) -> Distiller:
    method = registry.get(name)
    options = _renamed(method, options)
    check(f"option of {name}", method, options)
    return method(**options)


def _renamed(method: type, options: dict) -> dict:
    """The options with `taps`, another word for `stages`, under the name of the field."""
    if "taps" not in options or "stages" not in method.__dataclass_fields__ or "stages" in options:
        return options
    return {"stages" if key == "taps" else key: value for key, value in options.items()}


def _mapping(name: str, value) -> dict:
    if not isinstance(value, dict):
        raise UserError(f"The options of {name} must be a dict, such as {{'weight': 1.0}}; got {value!r}.")
    return value
