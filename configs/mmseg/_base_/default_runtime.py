_base_ = '../../_base_/default_runtime.py'

default_scope = 'mmseg'
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=16000),
)
env_cfg = dict(cudnn_benchmark=True)  # all crops have one size
visualizer = dict(type='SegLocalVisualizer')
log_processor = dict(by_epoch=False)
