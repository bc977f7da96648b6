_base_ = '../../_base_/default_runtime.py'

default_scope = 'mmpretrain'
default_hooks = dict(checkpoint=dict(interval=1))
env_cfg = dict(cudnn_benchmark=True)  # all crops have one size
visualizer = dict(type='UniversalVisualizer')
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True)
