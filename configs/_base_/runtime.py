# The settings that all runs share: hooks, logs, processes. Relative paths are relative to the directory of the run.
custom_imports = dict(imports=["xcit_dense.mm"], allow_failed_imports=False)
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="AtomicCheckpointHook", interval=1, max_keep_ckpts=3),
    sampler_seed=dict(type="DistSamplerSeedHook"),
)
custom_hooks = [
    dict(type="LearningCurveHook"),
    dict(type="CheckWeightsHook"),
    dict(type="ProgressHook"),
    dict(type="ReproducibleHook"),
    dict(type="ShortHistoryHook"),
    dict(type="WinogradHook"),
]
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
log_level = "INFO"
load_from = None
resume = False
