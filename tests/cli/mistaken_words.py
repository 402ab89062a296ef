"""Mistyped options, values, monitors and checkpoints of the commands that train and measure."""

from tests.cli.mistake import rows

WORDS = rows(
    """
~ fit --trainer.max-epochs 3  =>  --trainer.max-epochs | --trainer.max_epochs
~ fit -trainer.max_epochs 3  =>  -trainer.max_epochs | --trainer.max_epochs
~ fit \u2014trainer.max_epochs 3  =>  \u2014trainer.max_epochs | --trainer.max_epochs
fit \u2013trainer.max_epochs=3  =>  \u2013trainer.max_epochs | --trainer.max_epochs
~ fit trainer.max_epochs=3  =>  trainer.max_epochs=3 | --trainer.max_epochs
~ fit --trainer.max_epochs = 3  =>  trainer.max_epochs | '='
~ fit --trainer.max_epochs= 3  =>  trainer.max_epochs | ''
fit --trainer.max_epochs =3  =>  trainer.max_epochs | '=3'
~ fit --trainer.max_epochs  =>  trainer.max_epochs | argument
~ fit --trainer.max_epochs --trainer.devices 1  =>  trainer.max_epochs | argument
~ fit --trainer.max_epochs 3 5  =>  '5' | --
fit --max_epochs 3  =>  --max_epochs | --trainer.max_epochs
~ fit --trainer.epochs 3  =>  --trainer.epochs | --trainer.max_epochs
~ fit --epochs 3  =>  --epochs | --trainer.max_epochs
~ fit --lr 0.1  =>  --lr | --optimizer.lr
fit --batch_size 8  =>  --batch_size | --data.batch_size
~ fit --net LeNet5  =>  --net | --model.net
~ fit --seed 3  =>  --seed | --seed_everything
~ fit --model LeNet5  =>  model | LeNet5 | --model.net
fit --trainer 3  =>  trainer | 3
~ fit --trainer [3]  =>  trainer | [3]
~ fit --trainer.MAX_EPOCHS 3  =>  --trainer.MAX_EPOCHS | --trainer.max_epochs
~ fit --Trainer.max_epochs 3  =>  --Trainer.max_epochs | --trainer.max_epochs
fit --trainer_max_epochs 3  =>  --trainer_max_epochs | --trainer.max_epochs
~ fit --trainer..max_epochs 3  =>  --trainer..max_epochs | --trainer.max_epochs
~ fit ---trainer.max_epochs 3  =>  ---trainer.max_epochs | --trainer.max_epochs
~ fit -- trainer.max_epochs 3  =>  trainer.max_epochs
fit --trainer.max_epochs "'3'"  =>  trainer.max_epochs | '3'
~ fit --trainer.max_epochs true  =>  trainer.max_epochs | 'true'
~ fit --trainer.max_epochs 1.5  =>  trainer.max_epochs | int | '1.5'
~ fit --trainer.max_epochs 1e2  =>  trainer.max_epochs | int | '1e2'
fit --trainer.max_epochs [3]  =>  trainer.max_epochs | [3]
~ fit --trainer.max_epochs '{a: 3}'  =>  trainer.max_epochs
~ fit --trainer.max_epochs 3,000  =>  trainer.max_epochs | '3,000'
~ fit --trainer.max_epochs 3x  =>  trainer.max_epochs | '3x'
fit --trainer.max_epochs None  =>  trainer.max_epochs | null | 'None'
~ fit --trainer.enable_progress_bar no_thanks  =>  enable_progress_bar | bool | 'no_thanks'
~ fit --optimizer.lr true  =>  optimizer.lr | float | true
~ fit --optimizer.lr 0,1  =>  optimizer.lr | float | '0,1'
fit --optimizer.lr [0.1]  =>  optimizer.lr | [0.1]
~ fit --optimizer.lr 1e  =>  optimizer.lr | '1e'
~ fit --optimizer SGD lr=0.1  =>  lr=0.1 | --
~ fit fit  =>  'fit'
fit test  =>  'test'
~ fit --optimizer adam --optimizer.lr 0.1  =>  optimizer | 'adam' | Adam
~ fit --optimizer SGD --optimizer.weight_decai 0.1  =>  optimizer.weight_decai | weight_decay
~ fit --optimizer Adam --optimizer.momentum 0.9  =>  optimizer.momentum | Adam
fit --optimizer.learning_rate 0.1  =>  optimizer.learning_rate | SGD | lr
~ fit --optimizer ./adam.py  =>  optimizer | adam.py
~ fit --model.net lenet5  =>  model.net | 'lenet5' | LeNet5
~ fit --model.net Resnet20  =>  model.net | 'Resnet20' | ResNet
fit --model.net nets/lenet5.py  =>  model.net | nets/lenet5.py
~ fit --model.net ''  =>  model.net
~ fit --model.net torch.optim.SGD  =>  model.net | torch.optim.SGD
~ fit --model.net lightning_optreg.nets.LeNet6  =>  model.net | LeNet6 | LeNet5
fit --model.net lightning_optreg.net.LeNet5  =>  model.net | lightning_optreg.net
~ fit --data fashion_mnist  =>  data | 'fashion_mnist' | FashionMNISTDataModule
~ fit --data FashionMNIST  =>  data | 'FashionMNIST' | FashionMNISTDataModule
~ fit --data cifar10  =>  data | 'cifar10' | CIFAR10DataModule
fit --data.data-dir x  =>  data-dir | data_dir
~ fit --lr_scheduler cosine  =>  lr_scheduler | 'cosine' | Cosine
~ fit --scheduler StepLR  =>  --scheduler | --lr_scheduler
~ fit --lr_scheduler StepLR --lr_scheduler.gama 0.1 --lr_scheduler.step_size 3
    =>  lr_scheduler.gama | gamma
fit --model.loss crossentropy  =>  model.loss | 'crossentropy' | CrossEntropyLoss
~ fit --trainer.callbacks EarlyStoping  =>  trainer.callbacks | 'EarlyStoping' | EarlyStopping
~ fit --trainer.callbacks earlystopping  =>  trainer.callbacks | EarlyStopping
~ fit --trainer.callbacks+ MaxNrm  =>  trainer.callbacks | 'MaxNrm' | MaxNorm
fit --trainer.callback+=MaxNorm  =>  --trainer.callback | --trainer.callbacks
~ fit --trainer.callbacks.patience 3  =>  trainer.callbacks | patience
~ fit --trainer.logger tensorboard  =>  trainer.logger | 'tensorboard' | TensorBoardLogger
~ fit --model.net MLP --model.net.hidden 300  =>  model.net.hidden | 300
fit --model.net MLP --model.net.activation relu6x  =>  MLP | activation | relu6x | ReLU6
~ fit --model.net MLP --model.net.dropout 50  =>  dropout | 50
~ fit --optimizer '{class_path: Adam, init_args: {lr: 1, lr: 2}}'  =>  optimizer | 'lr' | twice
~ fit --data.normalize meanstd  =>  data.normalize | mean_std | 'meanstd'
fit --print_confg  =>  --print_confg | --print_config
~ fit --hlep  =>  --hlep | --help
~ fit --ckpt_path  =>  ckpt_path | argument
"""
)

RANGES = rows(
    """
~ fit --trainer.max_epochs -5  =>  trainer.max_epochs | >= -1 | -5
~ fit --trainer.min_epochs -1  =>  trainer.min_epochs | >= 0 | -1
~ fit --trainer.min_epochs 5 --trainer.max_epochs 3  =>  min_epochs | max_epochs | 5 | 3
~ fit --trainer.min_steps -1  =>  trainer.min_steps | >= 0 | -1
~ fit --trainer.max_steps -5  =>  trainer.max_steps | >= -1 | -5
fit --trainer.max_steps 1.5  =>  trainer.max_steps | int | '1.5'
~ fit --trainer.max_time abc  =>  trainer.max_time | abc | 00:12:00:00
~ fit --trainer.max_time 1:00  =>  trainer.max_time | 1:00 | 00:12:00:00
~ fit --trainer.max_time '{hour: 1}'  =>  trainer.max_time | hour | hours
~ fit --trainer.max_time 30  =>  trainer.max_time | 30
~ fit --trainer.limit_train_batches -1  =>  trainer.limit_train_batches | -1
~ fit --trainer.limit_train_batches 1.5  =>  trainer.limit_train_batches | 1.5
~ fit --trainer.limit_train_batches nan  =>  trainer.limit_train_batches | nan
fit --trainer.limit_val_batches -0.1  =>  trainer.limit_val_batches | -0.1
~ fit --trainer.limit_val_batches 50%  =>  trainer.limit_val_batches | 50%
~ test --trainer.limit_test_batches -3  =>  trainer.limit_test_batches | -3
~ predict --trainer.limit_predict_batches 2.5  =>  trainer.limit_predict_batches | 2.5
~ fit --trainer.overfit_batches -1  =>  trainer.overfit_batches | -1
~ fit --trainer.overfit_batches 1.5  =>  trainer.overfit_batches | 1.5
fit --trainer.val_check_interval 0  =>  trainer.val_check_interval | > 0 | 0
~ fit --trainer.val_check_interval 0.0  =>  trainer.val_check_interval | > 0 | 0
~ fit --trainer.val_check_interval -1  =>  trainer.val_check_interval | -1
~ fit --trainer.val_check_interval 1.5  =>  trainer.val_check_interval | 1.5
~ fit --trainer.val_check_interval nan  =>  trainer.val_check_interval | nan
~ fit --trainer.val_check_interval often  =>  trainer.val_check_interval | often
~ fit --trainer.check_val_every_n_epoch -1  =>  trainer.check_val_every_n_epoch | >= 1 | -1
~ fit --trainer.num_sanity_val_steps -2  =>  trainer.num_sanity_val_steps | >= -1 | -2
~ fit --trainer.log_every_n_steps -1  =>  trainer.log_every_n_steps | >= 0 | -1
~ fit --trainer.accumulate_grad_batches 0  =>  trainer.accumulate_grad_batches | >= 1 | 0
~ fit --trainer.accumulate_grad_batches 1.5  =>  trainer.accumulate_grad_batches | int | '1.5'
~ fit --trainer.gradient_clip_val nan  =>  trainer.gradient_clip_val | float | 'nan'
fit --trainer.gradient_clip_val -0.5  =>  trainer.gradient_clip_val | >= 0 | -0.5
~ fit --trainer.gradient_clip_val inf  =>  trainer.gradient_clip_val | inf
~ fit --trainer.gradient_clip_algorithm nrom  =>  trainer.gradient_clip_algorithm | nrom | norm
~ fit --trainer.num_nodes 0  =>  trainer.num_nodes | >= 1 | 0
~ fit --trainer.num_nodes -1  =>  trainer.num_nodes | >= 1 | -1
~ fit --trainer.devices 0  =>  trainer.devices | 0
~ fit --trainer.devices -3  =>  trainer.devices | -3
~ fit --trainer.devices abc  =>  trainer.devices | abc
fit --trainer.devices 1.5  =>  trainer.devices | 1.5
~ fit --trainer.devices []  =>  trainer.devices | []
~ fit --trainer.devices 99999999999999999999  =>  trainer.devices | 99999999999999999999
fit --trainer.accelerator gpu  =>  trainer.accelerator | gpu | cpu
~ fit --trainer.accelerator cuda  =>  trainer.accelerator | cuda | cpu
~ fit --trainer.accelerator tpu  =>  trainer.accelerator | tpu | cpu
~ fit --trainer.accelerator GPU  =>  trainer.accelerator | GPU | gpu
~ fit --trainer.accelerator cpuu  =>  trainer.accelerator | cpuu | cpu
fit --trainer.precision 12  =>  trainer.precision | 12 | 16
~ fit --trainer.precision fp16  =>  trainer.precision | fp16
~ fit --trainer.precision half  =>  trainer.precision | half
~ fit --trainer.strategy dppp  =>  trainer.strategy | dppp | ddp
~ fit --trainer.strategy DDP  =>  trainer.strategy | DDP | ddp
~ fit --trainer.strategy.timeout 3  =>  trainer.strategy | --trainer.strategy NAME
fit --trainer.strategy ddp --trainer.strategy.find_unused_parameters true  =>  'ddp' | DDPStrategy
~ fit --trainer.accelerator cpu --trainer.strategy DDPStrategy --trainer.strategy.ddp_comm_hook abs  =>  CUDA
fit --trainer.strategy localsgd  =>  trainer.strategy | LocalSGD
fit --trainer.strategy LocalSGD --trainer.strategy.periode 5  =>  trainer.strategy.periode | period?
~ fit --trainer.strategy DDPStrategi --trainer.strategy.timeout 3  =>  'DDPStrategi' | DDPStrategy
~ fit --trainer.strategy DDPStrategy --trainer.strategy.timout 3  =>  trainer.strategy.timout | timeout
~ fit --trainer.profiler simpel  =>  trainer.profiler | simpel | simple
~ fit --trainer.fast_dev_run -1  =>  trainer.fast_dev_run | >= 0 | -1
~ fit --trainer.reload_dataloaders_every_n_epochs -1
    =>  trainer.reload_dataloaders_every_n_epochs | >= 0 | -1
~ fit --trainer.deterministic maybe  =>  trainer.deterministic | maybe
~ fit --trainer.max_epochs 99999999999999999999  =>  trainer.max_epochs | 99999999999999999999
~ fit --trainer.max_steps 99999999999999999999  =>  trainer.max_steps | 99999999999999999999
~ fit --trainer.accumulate_grad_batches 99999999999999999999
    =>  trainer.accumulate_grad_batches | 99999999999999999999
~ fit --trainer.limit_train_batches 99999999999999999999
    =>  trainer.limit_train_batches | 99999999999999999999
fit --data.batch_size 99999999999999999999  =>  data.batch_size | 99999999999999999999
~ fit --data.num_workers 99999999999999999999  =>  data.num_workers | 99999999999999999999
~ fit --model.net MLP --model.net.hidden [99999999999999999999]  =>  model.net.hidden | 99999999999999999999
~ fit --seed_everything 99999999999999999999  =>  seed_everything | 99999999999999999999
~ fit --seed_everything -1  =>  seed_everything | >= 0 | -1
~ fit --seed_everything 1.5  =>  seed_everything | 1.5
~ fit --data.batch_size -1  =>  batch_size | >= 1 | -1
~ fit --data.batch_size 1.5  =>  batch_size | 1.5
~ fit --data.val_fraction nan  =>  val_fraction | nan
fit --data.val_fraction 20  =>  val_fraction | [0, 1) | 20
~ fit --optimizer.lr nan  =>  optimizer.lr | nan
~ fit --optimizer.lr inf  =>  optimizer.lr | inf
~ fit --optimizer.lr -0.1  =>  optimizer | -0.1
~ fit --optimizer.momentum -1  =>  optimizer | momentum | -1
~ fit --optimizer.weight_decay nan  =>  optimizer.weight_decay | nan
~ fit --optimizer Adam --optimizer.lr 1e-3 --optimizer.betas [0.9,1.5]  =>  optimizer | 1.5
~ fit --optimizer Adam --optimizer.lr 1e-3 --optimizer.betas 0.9  =>  optimizer.betas | 0.9
fit --optimizer Adam --optimizer.eps nan  =>  optimizer.eps | nan
~ fit --lr_scheduler StepLR --lr_scheduler.step_size 0  =>  lr_scheduler | step_size | 0
~ fit --lr_scheduler StepLR --lr_scheduler.step_size 3 --lr_scheduler.gamma nan  =>  lr_scheduler.gamma | nan
~ fit --trainer.callbacks+=MaxNorm --trainer.callbacks.max_norm=-1  =>  MaxNorm | max_norm | -1
~ fit --trainer.callbacks+=GradientNoise --trainer.callbacks.eta=nan  =>  GradientNoise | eta | nan
~ fit --trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor=val/loss --trainer.callbacks.mode=mim
    =>  EarlyStopping | mode | mim | min
fit --trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor=val/loss --trainer.callbacks.patience=-1
    =>  EarlyStopping | patience | -1
~ fit --trainer.callbacks+=ModelCheckpoint --trainer.callbacks.save_top_k=-2  =>  save_top_k | >= -1 | -2
fit --trainer.enable_checkpointing false --trainer.default_root_dir good.yaml  =>  good.yaml
"""
)

MONITORS = rows(
    """
fit --trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor=val_loss
    =>  EarlyStopping | 'val_loss' | val/loss
~ fit --trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor=val_acc
    =>  EarlyStopping | 'val_acc' | val/accuracy
~ fit --trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor=loss
    =>  EarlyStopping | 'loss' | val/loss
~ fit --trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor=accuracy
    =>  EarlyStopping | 'accuracy' | val/accuracy
~ fit --trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor=Val/Loss
    =>  EarlyStopping | 'Val/Loss' | val/loss
~ fit --trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor=val-loss
    =>  EarlyStopping | 'val-loss' | val/loss
~ fit --trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor=''  =>  EarlyStopping | monitor | ''
fit --trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor=test/accuracy
    =>  EarlyStopping | 'test/accuracy' | val/accuracy
fit --trainer.callbacks+=ModelCheckpoint --trainer.callbacks.monitor=val_accuracy
    --trainer.callbacks.filename=x
    =>  ModelCheckpoint | 'val_accuracy' | val/accuracy
~ fit --trainer.callbacks+=ModelCheckpoint --trainer.callbacks.monitor=validation/loss
    --trainer.callbacks.filename=x
    =>  ModelCheckpoint | 'validation/loss' | val/loss
~ fit --trainer.callbacks+=ModelCheckpoint --trainer.callbacks.monitor=train_loss
    --trainer.callbacks.filename=x
    =>  ModelCheckpoint | 'train_loss' | train/loss
~ fit --trainer.callbacks+=AdamRestarts --trainer.callbacks.monitor=val_loss
    =>  AdamRestarts | 'val_loss' | val/loss
fit --trainer.callbacks+=AdamToSGD --trainer.callbacks.monitor=val_loss
    =>  AdamToSGD | 'val_loss' | val/loss
fit --lr_scheduler ReduceLROnPlateau --lr_scheduler.monitor val_loss
    =>  lr_scheduler | 'val_loss' | val/loss
~ fit --lr_scheduler ReduceLROnPlateau --lr_scheduler.monitor loss  =>  lr_scheduler | 'loss' | val/loss
~ fit --model.lr_monitor val_loss --lr_scheduler torch.optim.lr_scheduler.ReduceLROnPlateau
    =>  'val_loss' | val/loss
"""
)

CHECKPOINTS = rows(
    """
~ test --ckpt_path bset  =>  'bset' | best
test --ckpt_path lst  =>  'lst' | last
~ fit --ckpt_path atuo  =>  'atuo' | auto
~ test --ckpt_path Best  =>  'Best' | best
~ test --ckpt_path runs/version_0/best.ckpt  =>  runs/version_0/best.ckpt
predict --ckpt_path auto  =>  ckpt_path | auto | best
~ test --ckpt_path 3  =>  '3'
test --ckpt_path best  =>  best | runs
~ validate --ckp_path best  =>  --ckp_path | --ckpt_path
test --checkpoint best  =>  --checkpoint | --ckpt_path
~ test --reset_optimizer true  =>  reset_optimizer
~ fit --reset_optimizer true  =>  reset_optimizer | ckpt_path
"""
)
