"""The paper's network: embedding spaces made comparable, selected, and predicted from, under each way to learn W and Θ."""
