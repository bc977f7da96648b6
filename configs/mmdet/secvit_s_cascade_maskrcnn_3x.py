_base_ = './secvit/secvit_s_cascade_maskrcnn_3x.py'
