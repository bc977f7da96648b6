_base_ = './secvit/secvit_s_maskrcnn.py'
