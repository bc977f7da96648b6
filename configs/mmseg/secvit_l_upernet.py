_base_ = './secvit/secvit_l_upernet.py'
