_base_ = './secvit/secvit_b_maskrcnn_3x.py'
