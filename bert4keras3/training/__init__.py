"""What training needs beside Keras."""
