_base_ = './secvit/secvit_l_maskrcnn.py'
