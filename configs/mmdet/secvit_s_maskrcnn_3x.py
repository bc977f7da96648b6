_base_ = './secvit/secvit_s_maskrcnn_3x.py'
