"""Which networks that people know come with their weights in a package, and how are they read?"""

import sys
from pathlib import Path

# Its scripts are started by themselves, too: what they share is imported from their own folder either way.
sys.path.append(str(Path(__file__).parent))
