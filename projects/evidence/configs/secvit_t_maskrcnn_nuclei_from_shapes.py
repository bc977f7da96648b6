# secvit_t_maskrcnn_nuclei.py from the weights that the demo has learnt on generated shapes. Layers whose size depends
# on the numbers of classes and anchors start from random weights; the log names them.
_base_ = '../../../configs/mmdet/secvit_t_maskrcnn_nuclei.py'

load_from = 'work_dirs/demo/secvit_t_maskrcnn_shapes/epoch_3.pth'
