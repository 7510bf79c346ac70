"""Photos into a folder for each class, by copies, links or moves, and back again.

folder_names    class names -> names of folders that every system takes
plan            record -> what is to be done with its photo and the sidecars
journal         the plan, on the disk before anything is done
transfer        one file to its place or back: never over another one, and never half
sort            a whole run: plan, then carry out, or take back
"""
