_base_ = './secvit/secvit_t_cascade_maskrcnn_3x.py'
