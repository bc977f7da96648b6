# Imports, hooks, environment and logging of every host; each host's default_runtime.py adds its own.
custom_imports = dict(imports=['mmsec.models', 'mmsec.engine', 'mmsec.datasets'], allow_failed_imports=False)

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='mmsec.AtomicCheckpointHook', max_keep_ckpts=3),
    sampler_seed=dict(type='DistSamplerSeedHook'),
)
# docs/distributed_training.md says what each does for a run.
custom_hooks = [
    dict(type='mmsec.PlainCheckpointHook'),
    dict(type='mmsec.PreemptionHook', save_minutes=30),
    dict(type='mmsec.NaNGuardHook'),
    dict(type='mmsec.IterationSeedHook'),
    dict(type='mmsec.BrokenDataHook'),
    dict(type='mmsec.EagerOptimizerHook'),
]
env_cfg = dict(
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(vis_backends=vis_backends, name='visualizer')
log_level = 'INFO'
load_from = None
resume = False
