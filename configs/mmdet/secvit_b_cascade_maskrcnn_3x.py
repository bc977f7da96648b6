_base_ = './secvit/secvit_b_cascade_maskrcnn_3x.py'
