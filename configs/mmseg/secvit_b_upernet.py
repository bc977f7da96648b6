_base_ = './secvit/secvit_b_upernet.py'
