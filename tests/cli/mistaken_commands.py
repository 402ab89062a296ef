"""Mistyped commands, and mistyped lines of those that don't train."""

from tests.cli.mistake import STUDY, rows, wrong

COMMANDS = rows(
    """
trian  =>  'trian' | fit
train --config good.yaml  =>  'train' | did you mean fit?
eval  =>  'eval' | did you mean test?
Fit  =>  'Fit' | fit
--config good.yaml fit  =>  --config | fit | before
--trainer.max_epochs 3 fit  =>  --trainer.max_epochs | fit
--fit  =>  --fit | fit
-fit  =>  -fit | fit
good.yaml  =>  good.yaml | --config
--verison  =>  --verison | --version
fit,test  =>  fit,test
''  =>  ''
plot  =>  kind | surface | dynamics | landscape
plot surfce --output a.png  =>  'surfce' | surface
plot --output a.png  =>  --output | surface
plot surface  =>  --output
plot surface --output a.jpg  =>  --output | a.jpg | .png
plot surface --output  =>  --output | argument
plot surface --output a.png --surface beal  =>  --surface | beal | beale
plot surface --output a.png --steps many  =>  --steps | many
plot surface --output a.png --steps -3  =>  --steps | -3
plot surface --outptu a.png  =>  --outptu | --output
plot surface a.png  =>  a.png | --output
plot surface dynamics --output a.png  =>  dynamics
plot dynamics --output a.gif  =>  --output | a.gif
plot landscape --output a.png  =>  --ckpt_path
plot landscape --ckpt_path bset --output a.png  =>  'bset' | best
plot landscape --ckpt_path good.yaml --output a.png  =>  good.yaml
plot landscape --ckpt_path x.ckpt --output a.png --radius nan  =>  --radius | nan
plot landscape --ckpt_path x.ckpt --output a.png --points 1  =>  --points | 1
plot transport --output a.png --field rotaton  =>  --field | rotaton | rotation
plot transport --output a.png --sigmas 0 -1  =>  --sigmas | -1
describe  =>  --net | LeNet5
describe LeNet5  =>  LeNet5 | --net
describe --net  =>  --net | argument
describe --net lenet5  =>  'lenet5' | LeNet5
describe --net ResNet --net.dpeth 20  =>  --net.dpeth | --net.depth
describe --net ResNet --depth 20  =>  --depth | --net.depth
describe --net ResNet --net.depth 21  =>  depth | 21 | 6n + 2
describe --net ResNet --net.depth deep  =>  depth | deep | int
describe --net LeNet5 --input_shape 3 32  =>  --input_shape | 3 32
describe --net LeNet5 --input_shape 3 32 x  =>  --input_shape | 3 32 x
describe --net LeNet5 --input_shape 0 32 32  =>  --input_shape | 0 32 32
describe --net LeNet5 --input_shape 1 2 2  =>  LeNet5 | 2
describe --net LeNet5 --input_shape  =>  --input_shape
describe --net LeNet5 --input-shape 1 28 28  =>  --input-shape | --input_shape
describe --net LeNet5 --batch_size 0  =>  --batch_size | >= 1 | 0
describe --net LeNet5 --batch_size 99999999999999999999  =>  batch_size | 99999999999999999999
describe --net LeNet5 --input_shape 1 99999999999999999999 28  =>  input_shape | 99999999999999999999
describe --net LeNet5 --batch_size x  =>  --batch_size | 'x'
describe --net LeNet5 extra  =>  extra
describe --net torchvision.models.resnet19  =>  resnet19 | resnet18
describe --net os.getcwd  =>  os.getcwd
describe --net nets/lenet5.py  =>  nets/lenet5.py
describe --nte LeNet5  =>  --nte | --net
export  =>  --ckpt_path | --output
export --ckpt_path best  =>  --output
export --ckpt_path bset --output a.onnx  =>  'bset' | best
export --ckpt_path x.ckpt --output nowhere/deep/a.onnx  =>  --output | nowhere/deep
export --ckpt_path x.ckpt --outptu a.onnx  =>  --outptu | --output
export --ckpt_path x.ckpt --output a.onnx --input_shape 3 32  =>  --input_shape | 3
export --ckpt_path x.ckpt --output a.onnx --input_shape 0 32 32  =>  --input_shape | 0
export --ckpt_path good.yaml --output a.onnx  =>  good.yaml
export x.ckpt a.onnx  =>  x.ckpt | --ckpt_path
"""
)

COMPARE = rows(
    """
compare  =>  --config
compare --config  =>  --config | argument
compare study.yaml  =>  study.yaml | --config
compare --config studdy.yaml  =>  studdy.yaml | study.yaml
compare --config .  =>  config
compare --confg study.yaml  =>  --confg | --config
compare --config study.yaml --plann  =>  --plann | --plan
compare --config study.yaml --workers 0  =>  workers | >= 1 | 0
compare --config study.yaml --workers two  =>  --workers | 'two'
compare --config good.yaml  =>  good.yaml | trainer | name
"""
)


def study(old: str, new: str) -> str:
    assert old in STUDY
    return STUDY.replace(old, new)


KEYS = "mapping"
PLAN = "compare --config b.yaml --plan"
STUDIES = [
    wrong(PLAN, "b.yaml", "empty", b=""),
    wrong(PLAN, "b.yaml", KEYS, b="- a\n"),
    wrong(PLAN, "b.yaml", "line 2", "tab", b="name: x\n\tbase: y\n"),
    wrong(PLAN, "b.yaml", "UTF-8", b=STUDY.encode("utf-16")),
    wrong(
        PLAN,
        "b.yaml",
        "'sgd'",
        "twice",
        b=study("values:", "  sgd: {optimizer: {class_path: Adam}}\nvalues:"),
    ),
    wrong(PLAN, "b.yaml", "'seeds'", "twice", b=STUDY + "seeds: [1]\n"),
    wrong(PLAN, "b.yaml", "name", b=study("name: small\n", "")),
    wrong(PLAN, "b.yaml", "base", b="name: small\nmethods: {}\nepochs: 1\n"),
    wrong(PLAN, "b.yaml", "methods", b="name: small\nbase: []\nepochs: 1\n"),
    wrong(PLAN, "b.yaml", "methods", KEYS, b="name: small\nbase: []\nmethods: [sgd]\nepochs: 1\n"),
    wrong(PLAN, "b.yaml", "epochs", "'one'", b=study("epochs: 1", "epochs: one")),
    wrong(PLAN, "b.yaml", "epochs", ">= 1", b=study("epochs: 1", "epochs: 0")),
    wrong(PLAN, "b.yaml", "epoch", "epochs", b=study("epochs", "epoch")),
    wrong(PLAN, "b.yaml", "values", b=study("[0.1, 0.01]", "[small, large]")),
    wrong(PLAN, "b.yaml", "values", b=study("[0.1, 0.01]", "[]")),
    wrong(PLAN, "b.yaml", "seeds", b=study("seeds: [0]", "seeds: 3")),
    wrong(PLAN, "b.yaml", "seeds", b=study("seeds: [0]", "seeds: [0, 0]")),
    wrong(PLAN, "b.yaml", "mode", "'best'", "max", b=STUDY + "mode: best\n"),
    wrong(PLAN, "b.yaml", "metric", "'val_accuracy'", "val/accuracy", b=STUDY + "metric: val_accuracy\n"),
    wrong(PLAN, "b.yaml", "metric", "'val/acuracy'", "val/accuracy", b=STUDY + "metric: val/acuracy\n"),
    wrong(PLAN, "b.yaml", "test_metric", "'test_acc'", "test/accuracy", b=STUDY + "test_metric: test_acc\n"),
    wrong(PLAN, "b.yaml", "reference", "'sdg'", "sgd", b=STUDY + "reference: sdg\n"),
    wrong(PLAN, "b.yaml", "base", "nowhere.yaml", b=study("base: [", "base: [nowhere.yaml, ")),
    wrong(PLAN, "c.yaml", "empty", b=study("base: [", "base: [c.yaml, "), c=""),
    wrong("compare --config b.yaml", "torch.optim.SDG", "SGD", b=study("torch.optim.SGD", "torch.optim.SDG")),
    wrong("compare --config b.yaml", "optimizer.lrr", b=STUDY + "tune: optimizer.init_args.lrr\n"),
]
