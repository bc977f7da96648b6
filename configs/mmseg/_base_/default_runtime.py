default_scope = 'mmseg'
custom_imports = dict(imports=['mmsec.models', 'mmsec.engine', 'mmsec.datasets'], allow_failed_imports=False)

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='mmsec.WholeCheckpointHook', by_epoch=False, interval=16000, max_keep_ckpts=3),
    sampler_seed=dict(type='DistSamplerSeedHook'),
)
# docs/distributed_training.md says what each does for a run.
custom_hooks = [
    dict(type='mmsec.PlainCheckpointHook'),
    dict(type='mmsec.PreemptionHook', save_minutes=30),
    dict(type='mmsec.FiniteHook'),
    dict(type='mmsec.IterationSeedHook'),
    dict(type='mmsec.BrokenDataHook'),
    dict(type='mmsec.EagerOptimizerHook'),
]
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='SegLocalVisualizer', vis_backends=vis_backends, name='visualizer')
log_processor = dict(by_epoch=False)
log_level = 'INFO'
load_from = None
resume = False
