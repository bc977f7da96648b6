_base_ = './secvit/secvit_t_maskrcnn_3x.py'
