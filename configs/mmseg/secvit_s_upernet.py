_base_ = './secvit/secvit_s_upernet.py'
