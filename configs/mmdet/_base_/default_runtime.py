_base_ = '../../_base_/default_runtime.py'

default_scope = 'mmdet'
default_hooks = dict(checkpoint=dict(interval=1))
env_cfg = dict(cudnn_benchmark=False)  # image sizes differ
visualizer = dict(type='DetLocalVisualizer')
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True)
