"""Files of saved models, judged before anything is made of them."""
